"""A pretend card for machines without one: tensors whose `.device` says cuda:0 and whose numbers lie in the CPU's memory.

`with card() as seen:` makes torch believe in one card of 80 GB. What a card refuses is refused: operations on tensors of both devices (0-dim numbers
and indices of the CPU may be mixed in, as with CUDA), `.numpy()`, random generators of the other device. What makes the host wait for the card is
counted by line of the library in `seen.waits`, and what it sends there in `seen.sends`.

What it cannot see: kernels that only CUDA has, memory, speed. `torch.autocast("cuda")` is the CPU's, which leaves norms and softmax as they come.
It patches torch as a whole; run it in a process of its own."""
import collections
import contextlib
import functools
import sys
import time
from types import SimpleNamespace
from unittest import mock

import torch
import torch._dynamo          # imported by the first mode; it must see torch as it is
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
GIGABYTES = 80
#: indices of the CPU are allowed
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default, aten._unsafe_index_put.default}
COPIES = {aten.copy_.default, aten.copy.default, aten._to_copy.default}
#: operations whose result has a size that only the card knows, or that answer on the host
ANSWERS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
           aten.unique_consecutive.default, aten.equal.default}
#: 0-dim numbers of the CPU are allowed here, as in all pointwise operations
SCALARS = {aten.fill_.Tensor, aten.fill.Tensor, aten.where.self, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
WIDER = {getattr(aten.addmm, "dtype_out", None), getattr(aten.mm, "dtype_out", None)} - {None}
real_generator, SET_DATA = torch.Generator, torch.Tensor.data.__set__       # the latter is a new object each time it is asked for


class Seen:
    "What happened on the card: lines of the library -> how often."
    def __init__(self): self.clear()
    def clear(self): self.waits, self.sends, self.operations = collections.Counter(), collections.Counter(), 0


SEEN = Seen()


def line() -> str:
    "The innermost line of the library that is at work, such as lm/sampling.py:120 _sample_batch."
    frame = sys._getframe(2)
    while frame:
        folder, found, name = frame.f_code.co_filename.rpartition("/tokenstudy/")
        if found and "/" in name: return f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


def on_card(place) -> bool: return place is not None and torch.device(place).type == "cuda"


def refuse(what): raise RuntimeError(f"{what}: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")


class CardTensor(torch.Tensor):
    "A tensor of the card; `inner` holds its numbers."
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, layout=inner.layout,
                                                   device="cpu", requires_grad=requires_grad)
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self): return f"CardTensor({tuple(self.shape)}, {self.dtype})"
    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with torch.no_grad(): made = CardTensor(self.inner.clone()).requires_grad_(self.requires_grad)
            if getattr(self, "_is_param", False): made._is_param = True
            memo[id(self)] = made
        return memo[id(self)]
    def __reduce_ex__(self, protocol): return self.inner.detach().__reduce_ex__(protocol)
    def numpy(self, *args, **options): raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
    __array__ = numpy
    def data_ptr(self): return self.inner.data_ptr()
    def untyped_storage(self): return self.inner.untyped_storage()
    def storage(self): return self.inner.storage()
    def get_device(self): return 0

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None): return compute(op, args, kwargs or {})


class ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.inner.clone()
    @staticmethod
    def backward(ctx, grad): return CardTensor(grad)


class ToCard(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return CardTensor(x.clone())
    @staticmethod
    def backward(ctx, grad): return grad.inner


class Call:
    "The call of a torch function that is going on: whether it has a tensor of the card, and the device it was told."
    card = False
    told = None


def tensors(x) -> list:
    "The tensors among the arguments of an operation; torch's own `tree_leaves` took half of the time."
    if isinstance(x, torch.Tensor): return [x]
    if isinstance(x, dict): x = x.values()
    elif not isinstance(x, (tuple, list)): return []
    return [t for y in x for t in ([y] if isinstance(y, torch.Tensor) else tensors(y) if isinstance(y, (tuple, list, dict)) else ())]


def mapped(function, x):
    "The same with `function` of each tensor."
    if isinstance(x, torch.Tensor): return function(x)
    if isinstance(x, dict): return {k: mapped(function, v) for k, v in x.items()}
    if not isinstance(x, (tuple, list)) or isinstance(x, torch.Size): return x
    made = [mapped(function, y) for y in x]
    return type(x)(*made) if hasattr(x, "_fields") else type(x)(made)


def inner(x): return x.inner if isinstance(x, CardTensor) else x
def outer(x): return CardTensor(x) if isinstance(x, torch.Tensor) and not isinstance(x, CardTensor) else x


def check(op, args, cards, others):
    "What CUDA says to tensors of both devices."
    if op in COPIES: return
    many = [t for t in others if t.dim() and t.device.type != "meta"]
    if op in INDEXED:
        if not isinstance(args[0], CardTensor): raise RuntimeError(f"{op}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if any(t is value for t in many for value in args[2:3]): refuse(op)
        return
    if many: refuse(f"{op} {[tuple(t.shape) for t in many]}")
    if others and op not in SCALARS and torch.Tag.pointwise not in op.tags and "foreach" not in op.name() and "fused" not in op.name(): refuse(f"{op}, a 0-dim tensor")


def check_generator(generator, card):
    if generator is None: return
    there, wanted = generator.device.type, "cuda" if card else "cpu"
    if there != wanted: raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{there}'")


def place_of(op, kwargs, cards):
    "Whether the result is on the card, and the arguments that make it on the CPU."
    place, kwargs = kwargs.get("device"), {**kwargs}
    if kwargs.get("pin_memory"): kwargs["pin_memory"] = False
    if place is None: return bool(cards) or Call.card, kwargs
    place = torch.device(place)
    if place.type == "meta" and not cards: return None, kwargs
    kwargs["device"] = CPU
    if place.type != "cpu": return True, kwargs
    # made inside of C++ for a tensor of the card, whose own options say cpu
    return Call.card and not (Call.told is not None and Call.told.type == "cpu"), kwargs


def compute(op, args, kwargs):
    "An operation on what may be tensors of the card."
    leaves = tensors((args, kwargs))
    cards = [t for t in leaves if isinstance(t, CardTensor)]
    others = [t for t in leaves if not isinstance(t, CardTensor)]
    if op is aten.is_pinned.default: return False
    if op is aten._pin_memory.default: return args[0]
    if op is aten._fused_sdp_choice.default and cards: return 0
    if not cards and others and not on_card(kwargs.get("device")):
        return op(*args, **kwargs)
    if cards and others: check(op, args, cards, others)
    if cards and (op in ANSWERS or op in INDEXED and any(isinstance(i, CardTensor) and i.dtype in (torch.bool, torch.uint8) for i in tensors(args[1]))
                  or op is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None): SEEN.waits[line()] += 1
    card, kwargs = place_of(op, kwargs, cards)
    if card is None: return op(*args, **kwargs)
    if op is aten.copy_.default:
        card = isinstance(args[0], CardTensor)
        if card != isinstance(args[1], CardTensor): (SEEN.sends if card else SEEN.waits)[line()] += 1
    elif op is aten._to_copy.default and card != bool(cards): (SEEN.sends if card else SEEN.waits)[line()] += 1
    out = on_cpu(op, *mapped(inner, (args, kwargs)))
    SEEN.operations += bool(cards)
    if not card: return out
    if not op._schema.is_mutable: return mapped(outer, out)
    for t in cards:
        if t.shape != t.inner.shape: raise NotImplementedError(f"{op} changes a tensor's shape in place, which a pretend card cannot")
    same = {id(t.inner): t for t in cards}
    return mapped(lambda t: same[id(t)] if id(t) in same else outer(t), out)


def on_cpu(op, args, kwargs):
    "The operation itself; products into another type are there on a card alone."
    if op is getattr(aten.mm, "dtype", None): return args[0].to(args[2]) @ args[1].to(args[2])
    if op is getattr(aten.bmm, "dtype", None): return args[0].to(args[2]) @ args[1].to(args[2])
    if op is getattr(aten.addmm, "dtype", None): return torch.addmm(*(x.to(args[3]) for x in args[:3]))
    if op in WIDER: return kwargs["out"].copy_((torch.addmm if len(args) == 4 else torch.mm)(*(x.to(args[-1]) for x in args[:-1])))
    return op(*args, **kwargs)


class Operations(TorchDispatchMode):
    "Tensors that are made on the card."
    def __torch_dispatch__(self, op, types, args=(), kwargs=None): return compute(op, args, kwargs or {})


def moved(x, card):
    "A tensor on the card or on the CPU, differentiable."
    if isinstance(x, CardTensor) == card: return x
    (SEEN.sends if card else SEEN.waits)[line()] += 1
    if x.requires_grad and torch.is_grad_enabled(): return (ToCard if card else ToHost).apply(x)
    return CardTensor(x.detach().clone()) if card else x.inner.detach().clone()


class Functions(TorchFunctionMode):
    "Calls that reach a device in C++ before they reach an operation, and what stands around the operations."

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, before = dict(kwargs or {}), (Call.card, Call.told)
        if function is torch.Tensor.__deepcopy__: return function(*args, **kwargs)      # whose memo holds other tensors
        card = any(isinstance(t, CardTensor) for t in tensors((args, kwargs)))
        told = kwargs.get("device")
        Call.card, Call.told = before[0] or card, before[1] if told is None else torch.device(told)
        check_generator(kwargs.get("generator"), card or on_card(told))
        try: return self.call(function, args, kwargs, card)
        finally: Call.card, Call.told = before

    def call(self, function, args, kwargs, card):
        if function in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor): return self.make(function, args, kwargs)
        if not card and function not in (torch.Tensor.to, torch.Tensor.cuda): return function(*args, **kwargs)
        if function is torch.Tensor.tolist:
            SEEN.waits[line()] += 1
            return args[0].inner.tolist()
        if function is torch.Tensor.cpu: return moved(args[0], False)
        if function in (torch.Tensor.to, torch.Tensor.cuda): return self.move(function, args, kwargs)
        if function == SET_DATA: return self.set_data(*args)
        if function is torch.Tensor.__setitem__ and not isinstance(args[2], torch.Tensor) and isinstance(args[0], CardTensor):
            return function(args[0], args[1], CardTensor(torch.tensor(args[2], dtype=args[0].dtype)))
        return function(*args, **kwargs)

    def make(self, function, args, kwargs):
        "From Python's or numpy's numbers."
        place, make = kwargs.pop("device", None), function
        if function is torch.Tensor.new_tensor:
            place, make, kwargs["dtype"], args = place or args[0].device, torch.tensor, kwargs.get("dtype") or args[0].dtype, args[1:]
        source = args[0] if args else kwargs.pop("data")
        if place is None and isinstance(source, CardTensor): place = CUDA
        if isinstance(source, torch.Tensor):
            made = moved(source, on_card(place)) if place is not None else source
            return made.to(kwargs["dtype"]) if kwargs.get("dtype") else made
        if isinstance(source, (list, tuple)) and any(isinstance(x, CardTensor) for x in tensors(source)):
            source = mapped(lambda x: x.item() if isinstance(x, CardTensor) else x, source)
        with torch._C.DisableTorchFunction(): made = make(source, *args[1:], **kwargs)
        if not on_card(place): return made if place is None or torch.device(place).type == "cpu" else made.to(place)
        SEEN.sends[line()] += 1
        return CardTensor(made.detach(), made.requires_grad)

    def move(self, function, args, kwargs):
        x, place, kind = args[0], kwargs.pop("device", None), kwargs.pop("dtype", None)
        copied = kwargs.get("copy", False)
        if function is torch.Tensor.cuda: place = "cuda"
        for given in args[1:] if function is torch.Tensor.to else ():
            if isinstance(given, torch.Tensor): place, kind = given.device, given.dtype
            elif isinstance(given, torch.dtype): kind = given
            elif isinstance(given, (str, torch.device)): place = given
        if "other" in kwargs: place, kind = kwargs["other"].device, kwargs["other"].dtype
        if place is not None and torch.device(place).type == "meta": return torch.Tensor.to(inner(x), "meta", kind or x.dtype)
        if place is not None: x = moved(x, on_card(place))
        with torch._C.DisableTorchFunction():
            if kind is not None or copied: x = torch.Tensor.to(x, kind or x.dtype, copy=copied)
            return x.to(memory_format=kwargs["memory_format"]) if kwargs.get("memory_format") else x

    def set_data(self, x, new):
        "`x.data = new`: the numbers, and with them the shape."
        if isinstance(x, CardTensor) != isinstance(new, CardTensor): raise RuntimeError("incompatible tensor type: `.data =` of a tensor on another device")
        with torch._C.DisableTorchFunction(): torch.Tensor.data.__set__(x, new)
        x.inner = new.inner


class OneKind(type(real_generator)):
    def __instancecheck__(cls, thing): return isinstance(thing, real_generator)


class Generator(real_generator, metaclass=OneKind):
    "Of the CPU or of the card; both draw with the CPU's numbers."
    def __new__(cls, device="cpu"): return real_generator.__new__(cls, "cpu")
    def __init__(self, device="cpu"): self.place = CUDA if on_card(device) else torch.device(device)
    device = property(lambda self: self.place)


class CardsOwn(Generator):
    "The card's default generator: the numbers are the CPU's, so the state is."
    def get_state(self): return torch.default_generator.get_state()
    def set_state(self, state): torch.default_generator.set_state(state)
    def manual_seed(self, seed): return torch.default_generator.manual_seed(seed)
    def initial_seed(self): return torch.default_generator.initial_seed()


class Event:
    "A mark in time."
    def __init__(self, *args, **options): self.time = 0.
    def record(self, stream=None): self.time = time.perf_counter()
    def wait(self, stream=None): pass
    def query(self): return True
    def synchronize(self): SEEN.waits["event " + line()] += 1
    def elapsed_time(self, end): return 1000*(end.time - self.time)


def synchronize(device=None): SEEN.waits["synchronize " + line()] += 1
def free(device=None): return (GIGABYTES - 5)*10**9, GIGABYTES*10**9
def properties(device=None): return SimpleNamespace(name="a pretend card", total_memory=GIGABYTES*10**9, major=9, minor=0, multi_processor_count=132)
def nothing(*args, **options): return None
def zero(*args, **options): return 0
def yes(*args, **options): return True
def restore_all(states):
    for state in states: torch.random.set_rng_state(state)


#: names of torch.cuda -> what they are while the card is there
CARD = dict(
    _lazy_init=nothing, init=nothing, is_available=yes, is_initialized=yes, is_bf16_supported=yes, device_count=lambda: 1, current_device=zero, set_device=nothing,
    mem_get_info=free, get_device_name=lambda d=None: "a pretend card", get_device_capability=lambda d=None: (9, 0), get_device_properties=properties,
    manual_seed=nothing, manual_seed_all=nothing, seed_all=nothing, empty_cache=nothing, ipc_collect=nothing, synchronize=synchronize,
    get_rng_state=lambda d=None: torch.random.get_rng_state(), set_rng_state=lambda state, d=None: torch.random.set_rng_state(state),
    get_rng_state_all=lambda: [torch.random.get_rng_state()], set_rng_state_all=restore_all,
    memory_allocated=zero, memory_reserved=zero, max_memory_allocated=zero, max_memory_reserved=zero, reset_peak_memory_stats=nothing, memory_stats=lambda d=None: {},
    Event=Event, current_stream=nothing, is_current_stream_capturing=lambda: False)


def as_cpu(kind): return "cpu" if isinstance(kind, str) and kind.startswith("cuda") else kind


def told_cpu(function):
    "A function of autocast whose device is the CPU where it is told the card."
    @functools.wraps(function)
    def called(*args, **kwargs):
        if "device_type" in kwargs: kwargs["device_type"] = as_cpu(kwargs["device_type"])
        return function(*map(as_cpu, args), **kwargs)
    return called


def applied(apply):
    "`Module._apply`: parameters that go to another device are new objects, the same one wherever a module shares it."
    memo, depth = {}, [0]
    def put(module, function, recurse=True):
        def once(t):
            if id(t) not in memo: memo[id(t)] = (t, function(t))
            return memo[id(t)][1]
        depth[0] += 1
        try:
            if recurse:
                for child in module.children(): put(child, function)
            for name, p in module._parameters.items():
                if p is None: continue
                if ("parameter", id(p)) not in memo:
                    with torch.no_grad(): new = function(p)
                    if new.device == p.device:
                        with torch.no_grad(): p.data = new
                        new = p
                    else:
                        new = torch.nn.Parameter(new, p.requires_grad)
                        if p.grad is not None:
                            with torch.no_grad(): new.grad = function(p.grad)
                    memo["parameter", id(p)] = (p, new)
                module._parameters[name] = memo["parameter", id(p)][1]
            for name, b in module._buffers.items():
                if b is not None: module._buffers[name] = once(b)
            return module
        finally:
            depth[0] -= 1
            if not depth[0]: memo.clear()
    return put


@contextlib.contextmanager
def card():
    "One card of 80 GB, as long as it lasts; what it has `Seen`. Everything of torch is as before when it is over."
    SEEN.clear()
    precision = torch.get_float32_matmul_precision()
    said = [precision]
    with contextlib.ExitStack() as stack:
        def put(place, **names):
            for name, value in names.items(): stack.enter_context(mock.patch.object(place, name, value, create=not hasattr(place, name)))
        put(torch.cuda, **CARD)
        put(torch.cuda, default_generators=(CardsOwn("cuda"),))
        put(torch, Generator=Generator, compile=lambda f=None, **options: f if f is not None else (lambda g: g),
            get_float32_matmul_precision=lambda: said[0], set_float32_matmul_precision=lambda kind: said.__setitem__(0, kind))
        put(torch.Tensor, pin_memory=lambda self, *args: self, is_pinned=lambda self, *args: False)
        put(torch._C, _InferenceMode=lambda wanted: torch.no_grad() if wanted else contextlib.nullcontext())      # tensors of inference mode cannot be wrapped
        put(torch.nn.Module, _apply=applied(torch.nn.Module._apply))
        put(torch.amp.autocast_mode.autocast, __init__=told_cpu(torch.amp.autocast_mode.autocast.__init__))
        put(torch, **{name: told_cpu(getattr(torch, name)) for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype")})
        stack.enter_context(Functions())
        stack.enter_context(Operations())
        yield SEEN
