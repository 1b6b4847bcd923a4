SEEN = {
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
OTHER = {"found": ["another training"], "asked": ["another training", "identity"]}
SAME = {"core.scales.seeds": {"default": ["number of seeds"]}, "core.scales.banner": {"default_seeds": ["number of seeds"]}, "core.checkpoints.check_identity": OTHER,
        "core.records.plain": {"value": ["result"]}, "core.training.state_of": {"thing": ["keep"]}, "core.training.restore_state": {"thing": ["checkpoint holds", "state"]},
        "core.results.committed": {"scale": ["committed record"], "study": ["committed record"]}, "core.identity.modules_behind": {"fn": ["module"]}, "core.files.add_asset": {"path": ["tokenstudy/assets"]}, "core.bench.alone": {"args": ["failed"]},
        "core.identity.code_fingerprint": {"things": ["module"]}, "core.files.asset": {"name": ["MANIFEST.json"]}, "core.arguments.check_module": {"rules": ["function"]}}
ANY = {"core.arguments.same_length", "core.files.add_asset", "core.arguments.filled", "core.arguments.ids", "core.arguments.finite", "core.arguments.vector", "core.arguments.pairs",
       "core.bench.alone", "core.checkpoints.join_state", "core.record_files.RecordFile.get", "core.records.plain", "core.records.Runs.get",
       "core.scales.missing_package", "core.training.state_of"}
LONG: set = set()
LEGAL: dict = {}
FAULTS: dict = {}
NEVER: dict = {}
