"""Models of random code, and edits of them, for tests of converted models.

All statements keep [N, 4, 8, 8], so they can follow each other in any order.
"""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

HEADER = """
import torch
import torch.nn.functional as F
from torch import nn

FACTOR = 0.5
MODE = "relu"

def conv(seed):
    torch.manual_seed(seed)
    return nn.Conv2d(4, 4, 3, padding=1)

def activation(kind):
    def act(x):
        return F.relu(x) if kind == "relu" else torch.tanh(x)
    return act

class Doubled(nn.Module):
    def __call__(self, x):
        return super().__call__(x * 2)
    def forward(self, x):
        return x + 1

class Maybe(nn.Module):
    enabled = True
    def forward(self, x):
        return x * 2 if self.enabled else None

class Encoder(nn.Module):
    shift = 0.25
    def __init__(self):
        super().__init__()
        self.conv, self.adapter, self.use_adapter = conv(7), nn.Conv2d(4, 4, 1), True
    def features(self, x):
        y = F.relu(self.conv(x))
        return y + self.adapter(y) if self.use_adapter else y
    def forward(self, x):
        return self.features(x) + self.shift

class Base(nn.Module):
    use_class = True
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(1), conv(2), conv(3)
        self.relu, self.pool, self.norm = nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(4)
        self.drop = nn.Identity()
        self.body = nn.Sequential(conv(4), nn.ReLU(), nn.Sequential(conv(5), nn.ReLU(),
            nn.MaxPool2d(3, 1, 1)), conv(6), nn.Tanh())
        self.layers = nn.ModuleList([conv(8), nn.ReLU(), conv(9)])
        self.choice = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
        self.shared = self.relu
        self.encoder, self.doubled, self.maybe = Encoder(), Doubled(), Maybe()
        self.extra = None
        self.register_module("registered", None)
        self.use_a = self.use_b = self.use_c = True
        self.scale, self.order, self.act = 0.5, (0, 1), F.relu
        self.made = activation("relu")
        self.mode = "relu"
    @property
    def gain(self):
        return self.scale * 2 if self.use_a else 1.0
    @staticmethod
    def fixed(x):
        return x * 1.5
    def helper(self, x):
        return F.relu(self.conv2(x)) if self.use_b else x
    def inherited(self, x):
        return x * 0.75

class Net(Base):
    def inherited(self, x):
        return super().inherited(x) + 0.5
    def forward(self, x):
        x = x * 1
"""

STATEMENTS = [
    "x = F.relu(self.conv1(x))",
    "x = self.relu(self.conv2(x))",
    "x = self.pool(self.relu(self.conv1(x)))",
    "x = F.max_pool2d(self.conv3(x).relu(), 3, 1, 1)",
    "x = self.shared(self.drop(self.conv3(x)))",
    "x = self.norm(x)",
    "x = self.body(x)",
    "x = self.body[1](self.body[0](x))",
    "for layer in self.body:\n    x = layer(x)",
    "for layer in self.layers:\n    x = layer(x)",
    "x = x * len(self.layers)",
    "x = self.layers[-1](x)",
    "x = self.choice[self.mode](self.conv1(x))",
    "seen = x * self.scale\nother = seen\nseen += 1\nx = self.relu(self.conv1(x)) + other",
    "kept = self.conv2(x)\ny = kept\ny *= 2\nx = F.relu(kept) + y",
    "x -= 0.5",
    "n = x.shape[1]\nm = n\nm += 1\nx = x * (m - n)",
    "if self.use_a:\n    x = self.conv3(x).relu()",
    "if self.use_class:\n    x = F.relu(self.conv1(x))",
    "x = self.extra(x) if self.extra is not None else self.conv2(x).relu()",
    "if self.registered is not None:\n    x = self.registered(x)",
    "late = getattr(self, 'late', None)\nif late is not None:\n    x = late(x)",
    "if hasattr(self, 'late'):\n    x = self.late(x)",
    "if 'late' in self._modules:\n    x = self._modules['late'](x)",
    "if self.__dict__.get('use_c'):\n    x = self.relu(self.conv1(x))",
    "if vars(self)['use_b']:\n    x = x * 2",
    "x = self.helper(x)",
    "x = self.inherited(x)",
    "x = self.fixed(x)",
    "x = x * self.gain",
    "x = self.act(self.conv1(x))",
    "x = self.made(self.conv2(x))",
    "x = self.encoder(x)",
    "x = self.encoder.features(x)",
    "x = x + self.encoder.shift",
    "x = self.conv1.forward(x).relu()",
    "x = self.doubled(x)",
    "y = self.maybe(x)\nx = x if y is None else y",
    "x = x * FACTOR",
    "x = F.relu(self.conv3(x)) if MODE == 'relu' else x",
    "x = x * (self.order[0] + self.order[1])",
    "if isinstance(self.relu, nn.ReLU):\n    x = self.conv3(x)",
    "x = x * len([*self.children()])",
    "x = F.conv2d(x, self.conv1.weight, self.conv1.bias, padding=self.conv1.padding)",
]


def build(statements: list[str]) -> tuple[nn.Module, types.ModuleType, str]:
    """A model in float64 of these statements, the Python module of its classes, and its source."""
    lines = "\n".join(statements).splitlines()
    source = HEADER + "".join(f"        {line}\n" for line in lines) + "        return x\n"
    module = types.ModuleType("random_model")
    sys.modules["random_model"] = module  # for pickle
    exec(compile(source, "random_model.py", "exec"), vars(module))
    torch.manual_seed(0)
    return module.Net().double().eval(), module, source


def seeded(layer: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(11)
    return layer().double()


def double_output(module, args, output):
    return output * 2


def halve_input(module, args):
    return tuple(x / 2 for x in args)


def minus(x):
    return -x


def method(self, x):
    return x - 1


def late_layer(model):
    model.late = seeded(lambda: nn.Conv2d(4, 4, 1))


def hook(name, kind="forward_hook", function=double_output):
    def edit(model):
        getattr(model.get_submodule(name), f"register_{kind}")(function)

    edit.__name__ = f"{kind} on {name}"
    return edit


def replace(name, layer):
    def edit(model):
        model.set_submodule(name, seeded(layer))

    edit.__name__ = f"another {name}"
    return edit


def attribute(name, value):
    def edit(model):
        *path, last = name.split(".")
        setattr(model.get_submodule(".".join(path)), last, value)

    edit.__name__ = f"{name} = {value}"
    return edit


def delete(name):
    def edit(model):
        *path, last = name.split(".")
        delattr(model.get_submodule(".".join(path)), last)

    edit.__name__ = f"del {name}"
    return edit


def in_class(name, value):
    """Of the model's class; both models share it."""

    def edit(model):
        setattr(type(model), name, value)

    edit.__name__ = f"class {name} = {value}"
    return edit


def of_module(name, value):
    """A global of the model's code."""

    def edit(model):
        setattr(sys.modules["random_model"], name, value)

    edit.__name__ = f"global {name} = {value}"
    return edit


def statement(code):
    def edit(model):
        exec(code, {"model": model, "nn": nn, "torch": torch, "F": F, "types": types, **globals()})

    edit.__name__ = code
    return edit


def shallow(model):
    other = copy.copy(model)
    other.use_a = other.use_b = False
    return other


def replica(model):
    """DataParallel's replica of a model, with the original parameters."""

    def copied(module):
        new = module._replicate_for_data_parallel()
        new._parameters = dict(module._parameters)
        new._modules = {
            name: None if child is None else made.setdefault(child, None) or copied_once(child)
            for name, child in module._modules.items()
        }
        return new

    def copied_once(module):
        made[module] = copied(module)
        return made[module]

    made = {}
    other = copied(model)
    other.use_b = False
    return other


EDITS = [
    *(attribute(name, False) for name in ("use_a", "use_b", "use_c", "encoder.use_adapter")),
    attribute("use_class", False), attribute("maybe.enabled", False),
    attribute("scale", 0.25), attribute("scale", -0.0), attribute("order", (2, 3)),
    attribute("act", torch.tanh), attribute("act", minus), attribute("mode", "tanh"),
    attribute("encoder.shift", 1.0),
    attribute("extra", nn.AvgPool2d(3, 1, 1)), attribute("registered", nn.Tanh()),
    attribute("late", nn.Tanh()), late_layer,
    attribute("relu", nn.GELU()), attribute("shared", nn.Tanh()), attribute("pool", nn.Identity()),
    attribute("drop", nn.Tanh()), attribute("conv1.forward", minus),
    attribute("body.1.forward", torch.tanh), attribute("encoder.forward", minus),
    attribute("pool.ceil_mode", True), attribute("pool.return_indices", True),
    attribute("conv1.padding", (0, 0)), attribute("relu.inplace", True),
    attribute("relu.__class__", nn.Tanh), attribute("maybe.__class__", nn.Tanh),
    delete("use_a"), delete("conv3"), delete("extra"), delete("encoder.use_adapter"),
    replace("conv1", lambda: nn.Conv2d(4, 4, 3, padding=1)),
    replace("conv2", lambda: nn.Conv2d(4, 4, 5, padding=2)), replace("body.1", nn.GELU),
    replace("body.2", nn.Identity), replace("body.2.1", nn.Sigmoid), replace("layers.1", nn.GELU),
    replace("encoder.conv", lambda: nn.Conv2d(4, 4, 1)),
    *(hook(name) for name in ("conv1", "conv2", "relu", "pool", "drop", "body.0", "body.1")),
    *(hook(name, "forward_pre_hook", halve_input) for name in ("relu", "body.2.1", "encoder.conv")),
    hook(""), hook("body"), hook("layers.0"),
    in_class("use_class", False), in_class("late", minus), in_class("helper", method),
    in_class("forward", method), in_class("inherited", method), in_class("gain", 3.0),
    in_class("conv1", staticmethod(minus)),
    statement("type(model.encoder).shift = 2.0"),
    statement("type(model.encoder).features = method"),
    statement("type(model).__mro__[1].inherited = method"),
    statement("type(model.doubled).__call__ = method"),
    of_module("FACTOR", 2.0), of_module("MODE", "none"),
    statement("del model.layers[-1]"), statement("model.layers.append(nn.Tanh())"),
    statement("model.layers.extend([nn.Tanh(), nn.ReLU()])"),
    statement("model.body = model.body[:2]"), statement("del model.body[1]"),
    statement("model.body.append(nn.ReLU())"), statement("model.body[0], model.body[3] = "
        "model.body[3], model.body[0]"),
    statement("model.choice.pop('relu')"),
    statement("model.helper = types.MethodType(method, model)"),
    statement("model.made.__closure__[0].cell_contents = 'tanh'"),
    statement("nn.utils.parametrizations.weight_norm(model.conv1)"),
    statement("model.conv1.weight.data.mul_(2)"),
    statement("model.conv2.weight = nn.Parameter(model.conv2.weight * 2)"),
    statement("model.conv1.bias = None"),
    statement("model.float()"), statement("model.half().double()"),
    statement("model.train()"), statement("model.norm.train()"), statement("model.encoder.train()"),
    statement("model.requires_grad_(False)"),
    copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), shallow, replica,
    copy.copy,
]  # fmt: skip

# These edits change nothing that any statement reads.
UNRELATED = [
    attribute("note", "text"), attribute("numbers", [1, 2]),
    statement("model.unused = nn.Linear(2, 2)"), statement("model.unused = nn.ReLU()"),
    statement("model.state = {'a': 1}"), statement("model.load_state_dict(model.state_dict())"),
    statement("model.zero_grad()"), statement("model.body.note = 'text'"),
    statement("model.conv1.weight.data.mul_(2)"), statement("type(model).note = 'text'"),
    copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), copy.copy,
]  # fmt: skip
