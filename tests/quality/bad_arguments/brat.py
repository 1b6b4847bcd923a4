PIPE = """
from tokenstudy.brat.pipelines import random_pipeline
import tempfile
from pathlib import Path
"""
BACKBONE = PIPE + """
bb = {}(random_pipeline("{}"), {})
rows, latents, level = ["a cat"], torch.zeros(1, 4, 8, 8), torch.tensor([5])
"""
#: adapter -> its family and size, and the methods that it has of its own
ADAPTERS = {
    "Backbone": ("sd", 16, "condition longest padded encode scale clock unclock predict"),
    "SDXL": ("sdxl", 16, "condition scale predict"),
    "PixArt": ("pixart", 16, "condition longest padded micro_conditions predict"),
    "Sana": ("sana", 32, "clock unclock predict"),
    "SD3": ("sd3", 16, "condition scale"),
    "Flux": ("flux", 16, "clock unclock condition predict")}
CALLS = dict(condition="rows", longest="rows", padded="rows, 9", encode="torch.zeros(1, 3, 16, 16)", scale="latents",
             clock="torch.tensor([5.])", unclock="torch.tensor([5.])", predict="latents, level, bb.condition(rows)", micro_conditions="latents")
CONCEPT = PIPE + """
from tokenstudy.brat.backbones import backbone
x, pipe = Concept("<x>", ["<x>"], ",", "tokens", dict(text_encoder=torch.ones(1, 16)), "sd", {}), random_pipeline("sd")
place = Path(tempfile.mkdtemp())
"""
ABLE = PIPE + """
from safetensors.torch import save_file
save_file(dict(emb_params=torch.ones(2, 16)), place := tempfile.mkdtemp() + "/toy.safetensors")
able = with_textual_inversion(random_pipeline("pixart"))
able.load_textual_inversion(place, "<toy>")
"""
FOLDER = """
import tempfile
from pathlib import Path
from PIL import Image
place = Path(tempfile.mkdtemp())
(place/"dog").mkdir()
for i in range(2): Image.new("RGB", (8, 8)).save(place/"dog"/f"{i}.png")
"""
HUB = """
from types import SimpleNamespace
from transformers import BatchFeature
hub = object.__new__(HubSimilarity)
vectors = lambda **given: torch.ones(len(next(iter(given.values()))), 4)
hub.device, hub.tokenizer, hub.model = "cpu", build_tokenizer(), SimpleNamespace(get_text_features=vectors, get_image_features=vectors)
hub.processor = lambda pictures, return_tensors: BatchFeature(dict(pixel_values=torch.zeros(len(pictures), 3, 8, 8)))
"""
LEARN = "from tokenstudy.brat import CONCEPTS\nfrom tokenstudy.brat.pipelines import random_pipeline\nfrom tokenstudy.brat.instruments import Contrast\n"
SEEN = {
    "brat.backbones.NoiseLevels.mix": (
        "brat.backbones", PIPE + "NoiseLevels(random_pipeline('sd').scheduler).mix(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([1, 2]))"),
    **{f"brat.backbones.{name}.{method}": ("brat.backbones", BACKBONE.format(name, family, size) + f"bb.{method}({CALLS[method]})")
       for name, (family, size, methods) in ADAPTERS.items() for method in methods.split()},
    "brat.bases.PatchPCA.fit": ("brat.bases", "PatchPCA().fit(torch.rand(4, 3, 8, 8))"),
    "brat.bases.PatchPCA.decode": ("brat.bases", "PatchPCA().decode(torch.zeros(2, 24, 2, 2))"),
    "brat.bases.draw": ("brat.bases", PIPE + "draw(random_pipeline('sd'), 'a cat', num_inference_steps=1)"),
    "brat.bench.memory": ("brat.bench", "import tempfile\nmemory('ours', 'unet', tempfile.mkdtemp(), num_steps=1)"),
    "brat.concepts.load_concept": ("brat.concepts", CONCEPT + "load_concept(x.save(place/'x'))"),
    "brat.concepts.load": ("brat.concepts", CONCEPT + "load(pipe, x.save(place/'x'))"),
    **{f"brat.drawing.Concept.{call.partition('(')[0]}": ("brat.concepts", CONCEPT + f"x.{call}") for call in (
        "apply(pipe)", "generate(pipe, 'a <x>', num_inference_steps=1)", "remember(backbone(pipe))", "save(place/'x')",
        "export(place/'x.safetensors')")},
    "brat.drawing.Concept.remove": ("brat.concepts", CONCEPT + "x.remove(x.apply(pipe))"),
    **{f"brat.drawing.ConceptLoaderMixin.{call.partition('(')[0]}": ("brat.concepts", ABLE + f"able.{call}") for call in (
        "unload_textual_inversion('<toy>')", "encode_prompt('a cat')", "load_textual_inversion(place, '<other>')")},
    "brat.pipelines.hub_pipeline": ("brat.pipelines", "hub_pipeline('unet', 'cpu')"),
    "brat.fidelity.concept_folders": ("brat.fidelity", FOLDER + "concept_folders(place)"),
    "brat.fidelity.run_unit": ("brat.fidelity", LEARN + """
both = Reader().eval(), Contrast().eval()
how = dict(plain=1, single=False, joint=0, edits=0, num_inference_steps=1, num_steps=1, templates="object", size=16, lr=.02)
run_unit(random_pipeline(), CONCEPTS[0], "default", instruments=both, **how)"""),
    "brat.fidelity.run_units": ("brat.fidelity", LEARN + """
both = Reader().eval(), Contrast().eval()
how = dict(plain=1, single=False, joint=0, edits=0, num_inference_steps=1, num_steps=1, templates="object", size=16, lr=.02)
run_units(random_pipeline(), [(CONCEPTS[0], 0)], "default", instruments=both, **how)"""),
    "brat.instruments.Contrast.embed_pixels": ("brat.instruments", "Contrast().eval().embed_pixels(torch.zeros(2, 3, 32, 32))"),
    "brat.instruments.Contrast.image": ("brat.instruments", "Contrast().eval().image(torch.zeros(2, 3, 32, 32))"),
    "brat.instruments.HubSimilarity.image": ("brat.instruments", HUB + "hub.image(torch.zeros(2, 3, 8, 8))"),
    "brat.instruments.HubSimilarity.text": ("brat.instruments", HUB + "hub.text(['a cat'])"),
    "brat.pictures.load_pictures": ("brat.pictures", FOLDER + "load_pictures(place/'dog')"),
    "brat.recipe.embed": ("brat.recipe", "embed('x.safetensors', nn.Linear(2, 2), 'nobody')"),
    "brat.start.check_room": ("brat.start", PIPE + """
from tokenstudy.brat.backbones import backbone, borrowed
bb = backbone(random_pipeline("sd"))
bb.kept = borrowed(bb, ["<x>"], dict(text_encoder=torch.ones(1, 16)))       # for as long as the backbone lasts
bb.kept.__enter__()
check_room(bb, ["a {}"], ["<x>"])"""),
    "brat.start.rooms": ("brat.start", PIPE + """
from tokenstudy.brat.backbones import backbone, borrowed
bb = backbone(random_pipeline("sd"))
bb.kept = borrowed(bb, ["<x>"], dict(text_encoder=torch.ones(1, 16)))
bb.kept.__enter__()
rooms(bb, "<x>")"""),
    "brat.strategies.check_whole": ("brat.strategies", "check_whole('num_steps', 3, 1)"),
    "brat.strategies.check_flags": ("brat.strategies", "check_flags(flip=True)"),
    "brat.world.check_creature": ("brat.world", "check_creature(random_creature(random.Random(0)))"),
}
PICTURE = ["picture", "pictures"]
SAME = {
    "brat.bases.build_base": {"name": ["base"]}, "brat.bases.load_base": {"name": ["base"]}, "brat.bases.base_folder": {"name": ["base"]},
    "brat.recipe.train_base": {"name": ["base"], "pictures": ["values"]}, "brat.recipe.train_at": {"name": ["base"]},
    "brat.recipe.train_reader": {"pictures": ["values"]}, "brat.recipe.train_contrast": {"pictures": ["values"]},
    "brat.recipe.accuracy": {"pictures": ["values"]},
    "brat.captions.phrase": {"value": ["eyes"]},
    "brat.fidelity.similarities": {"images": PICTURE, "sources": PICTURE}, "brat.fidelity.scores": {"images": PICTURE},
    "brat.fidelity.run_unit": {"pictures": ["count"]}, "brat.drawing.ConceptLoaderMixin.encode_prompt": {"args": ["prompt"]},
    "brat.strategies.check_whole": {"value": ["num_steps"]},
    **{f"brat.{name}": {"images": PICTURE} for name in ("inversion.Trainer", "inversion.invert", "pictures.read_squares", "pictures.read_pictures")},
}
ANY: set = {"brat.drawing.Concept.expand", "brat.drawing.write_out", "brat.drawing.expand_prompt", "brat.tokens.careful", "brat.pipelines.hub_pipeline",
            "brat.instruments.HubSimilarity"}
LONG: set = {"brat.bench.memory", "brat.bench.sd_shaped", "brat.fidelity.run_unit", "brat.fidelity.run_units", "brat.fidelity.run_hub_unit", "brat.inversion.invert"}
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "brat.backbones.NoiseLevels.mix": {"latents": "nan", "noise": "nan"},
    "brat.backbones.Backbone.encode": {"pictures": "nan"},
    "brat.backbones.Backbone.scale": {"latents": "deep|nan"},
    "brat.backbones.Backbone.clock": {"times": "deep|nan"},
    "brat.backbones.Backbone.unclock": {"times": "deep|nan"},
    "brat.backbones.Backbone.predict": {"noisy": "nan"},
    "brat.backbones.SDXL.scale": {"latents": "deep|nan"},
    "brat.backbones.SDXL.predict": {"noisy": "nan"},
    "brat.backbones.PixArt.micro_conditions": {"noisy": "nan"},
    "brat.backbones.PixArt.predict": {"noisy": "nan"},
    "brat.backbones.Sana.clock": {"times": "deep|nan"},
    "brat.backbones.Sana.unclock": {"times": "deep|nan"},
    "brat.backbones.Sana.predict": {"noisy": "nan"},
    "brat.backbones.SD3.scale": {"latents": "deep|nan"},
    "brat.backbones.Flux.clock": {"times": "deep|nan"},
    "brat.backbones.Flux.unclock": {"times": "deep|nan"},
    "brat.backbones.Flux.predict": {"noisy": "nan"},
    "brat.backbones.same_model": {"one": "{}", "other": "{}"},
    "brat.bases.PatchPCA.fit": {"pixels": "short", "power": "0"},
    "brat.bases.PatchPCA.encode": {"x": "nan|short"},
    "brat.bases.PatchPCA.decode": {"z": "nan|short", "generator": "1|text|[]|{}|object"},
    "brat.bases.load_base": {"device": ""},
    "brat.bases.draw": {"prompts": "|text", "seeds": "1", "guidance_scale": "0", "negative_prompt": "text"},
    "brat.bench.ScriptTrainer": {"placeholder": "text", "init_word": "text", "seed": "-1|0"},
    "brat.bench.ScriptTrainer.pixels": {"i": "-1|0"},
    "brat.bench.sd_shaped": {"seed": "-1|0"},
    "brat.bench.picture_files": {"folder": "folder"},
    "brat.bench.contestant": {"folder": "folder"},
    "brat.bench.measured_growth": {"folder": "folder"},
    "brat.bench.memory": {"folder": "folder"},
    "brat.bench.rows": {"pipelines": "[]|{}|generator"},
    "brat.captions.caption": {"mention": "[]|{}|generator", "subject": "text"},
    "brat.captions.parse": {"text": "|text"},
    "brat.captions.concept_pictures": {"seed": "-1|0"},
    "brat.concepts.read_embedding": {"placeholder": "text"},
    "brat.drawing.Concept.phrase": {"block": "0"},
    "brat.drawing.Concept.expand": {"prompt": "[]||text", "block": "0"},
    "brat.drawing.Concept": {
        "placeholder": "[]", "tokens": "[]|[[]]|[None]|[object]|{}|[nan]", "join": "[]", "strategy": "[]", "embeddings": "[]|{}|other keys|number keys",
        "family": "[]", "settings": "[]|{}|other keys|number keys", "history": "[]|{}", "validation": "[]|{}", "separator": "[]|{}"},
    "brat.drawing.Concept.generate": {"prompt": "|text"},
    "brat.drawing.Concept.save": {"folder": "missing"},
    "brat.drawing.Concept.export": {"file": "missing"},
    "brat.drawing.write_out": {"prompt": "text|[]|[[]]", "concepts": "[]|{}|generator", "blocks": "{}"},
    "brat.drawing.expand_prompt": {"prompt": "[]||text"},
    "brat.drawing.block_of": {"times": "deep|short"},
    "brat.drawing.draw_concept": {"prompt": "|text"},
    "brat.drawing.ConceptLoaderMixin.encode_prompt": {"args": "|text"},
    "brat.fidelity.evaluation_prompts": {"plain": "0", "joint": "0", "edits": "0", "seed": "-1|0"},
    "brat.fidelity.similarities": {"sources": "short"},
    "brat.fidelity.drawn": {"seed": "-1|0"},
    "brat.fidelity.run_unit": {"seed": "0", "guidance_scale": "0"},
    "brat.fidelity.run_units": {"guidance_scale": "0"},
    "brat.fidelity.by_concept": {"records": "[]|generator", "base": "text", "strategy": "text", "score": "text"},
    "brat.pipelines.hub_pipeline": {"device": ""},
    "brat.fidelity.run_hub_unit": {"seed": "0", "guidance_scale": "0"},
    "brat.instruments.Reader.forward": {"pixels": "nan|short"},
    "brat.instruments.Reader.read": {"pictures": "short"},
    "brat.instruments.Contrast.embed_pixels": {"pixels": "nan|short"},
    "brat.instruments.Contrast.embed_texts": {"texts": "text"},
    "brat.instruments.Contrast.image": {"pictures": "short"},
    "brat.instruments.Contrast.text": {"texts": "text"},
    "brat.instruments.HubSimilarity": {"device": ""},
    "brat.instruments.HubSimilarity.image": {"pictures": "short"},
    "brat.instruments.HubSimilarity.text": {"texts": "text"},
    "brat.instruments.load_reader": {"device": ""},
    "brat.instruments.load_contrast": {"device": ""},
    "brat.inversion.Batch": {
        "pictures": "[]|ragged|texts|{}", "levels": "[]|ragged|texts|{}", "latent_noise": "[]|ragged|texts|{}", "noise": "[]|ragged|texts|{}",
        "templates": "[]|[[]]|[None]|[object]|{}|[nan]"},
    "brat.inversion.Trainer": {"model": "|text", "output_dir": "missing|folder"},
    "brat.inversion.invert": {
        "num_bonus": "0", "orthogonality": "0", "jitter": "0", "warmup": "0", "weight_decay": "0", "seed": "0", "validation_prompts": "text|[]|generator",
        "validation_every": "0|huge", "validation_options": "{}|other keys", "output_dir": "missing|folder", "save_every": "huge"},
    "brat.pictures.read_squares": {"images": "short"},
    "brat.pipelines.random_pipeline": {"seed": "-1|0"},
    "brat.recipe.noisy_steps": {"num_samples": "0", "share": "0", "low": "0"},
    "brat.recipe.draw_world": {"seed": "-1|0"},
    "brat.recipe.pixels_of": {"pictures": "deep|short"},
    "brat.recipe.train_reader": {"noise": "0", "blur": "0", "seed": "-1|0"},
    "brat.recipe.train_contrast": {"seed": "-1|0"},
    "brat.recipe.predict": {"noisy": "nan", "states": "nan"},
    "brat.recipe.base_loss": {"latents": "nan", "weight": "0"},
    "brat.recipe.train_base": {"early": "0", "decay": "0", "warmup": "0", "seed": "0", "output_dir": "missing|folder", "save_every": "inf|0", "device": ""},
    "brat.recipe.train_at": {"output_dir": "missing|folder"},
    "brat.recipe.embed": {"file": "text", "made_by": "text", "seed": "0"},
    "brat.recipe.gate_prompts": {"seed": "-1|0"},
    "brat.recipe.gate": {"seed": "0"},
    "brat.start.names_that_fit": {"join": "text"},
    "brat.start.check_room": {"join": "text"},
    "brat.start.writable": {"output_dir": "missing|folder"},
    "brat.start.prompt_list": {"validation_prompts": "[]||text"},
    "brat.strategies.cos_penalty": {"rows": "nan|short"},
    "brat.strategies.check_whole": {"name": "text", "value": "huge", "least": "-1|0"},
    "brat.strategies.token_names": {"placeholder": "text"},
    "brat.tokens.extended_name": {"name": "text", "suffix": "text"},
    "brat.tokens.LearnedEmbedding.forward": {"ids": "deep"},
    "brat.tokens.LearnedEmbedding.row_of": {"slot": "deep"},
    "brat.tokens.OwnRows": {"rows": "short"},
    "brat.tokens.Owners": {"device": ""},
    "brat.tokens.uninstall": {"names": "[]"},
    "brat.tokens.careful": {"names": "[]", "slot": "text"},
    "brat.world.held_out": {"seed": "-1|0"},
    "brat.world.render": {"seed": "text|-1|0"},
    "brat.world.grid": {"gap": "0"},
    "brat.world.labelled_grid": {"gap": "0"},
}
FAULTS: dict = {}
