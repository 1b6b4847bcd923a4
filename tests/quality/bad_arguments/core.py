SEEN = {
    "core.arguments.Kind": ("core.arguments", "Kind('a number', callable)"),
    "core.arguments.Kind.fault": ("core.arguments", "Kind('a number', callable).fault(3, 'x')"),
    "core.checkpoints.check_identity": ("core.checkpoints", "check_identity(dict(lr=.1), dict(lr=.1), 'the checkpoint')"),
    "core.files.add_asset": ("core.files", "add_asset(asset('base-unet.safetensors'), 'a test')"),
    "core.record_files.RecordFile.get": ("core.record_files", "RecordFile('a.db').get('key')"),
    "core.record_files.RecordFile.put": ("core.record_files", "RecordFile('a.db').put({'key': 'text'})"),
    "core.record_files.RecordFile.claim": ("core.record_files", "RecordFile('a.db').claim('key', lambda: True)"),
    "core.records.Runs.key": ("core.records", "Runs('toy/study', 'folder').key({'K': 2})"),
    "core.records.Runs.append": ("core.records", "Runs('toy/study', 'folder').append(make_record('toy/study', 'smoke', {'K': 2}, 1))"),
    "core.records.Runs.get": ("core.records", "Runs('toy/study', 'folder').get({'K': 2})"),
    "core.records.Runs.__call__": ("core.records", "Runs('toy/study', 'folder')({'K': 2}, lambda: 3)"),
    "core.records.Runs.publish": ("core.records", "runs = Runs('toy/study', 'folder')\nruns({'K': 2}, lambda: 3)\nruns.publish()"),
    "core.results.committed": ("core.results", "committed('multidraft/acceptance', lambda r: dict(K=1))"),
}
SAME: dict = {}
ANY: set = set()
LONG: set = set()
LEGAL: dict = {}
FAULTS: dict = {}
