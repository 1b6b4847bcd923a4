SEEN: dict = {}
SAME: dict = {}
ANY: set = set()
LONG: set = set()
LEGAL: dict = {}
FAULTS: dict = {}
