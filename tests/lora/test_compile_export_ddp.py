"""Adapted models under torch.compile, torch.export, deepcopy, pickle, and in several processes."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lorgnette.lora import (
    LoRAConfig,
    effective_parameter,
    get_lora_params,
    get_lora_state_dict,
    inject_lora,
    load_lora_state_dict,
    merge_lora_weights,
)
from lorgnette.lora.kernels import fused

ROOT = Path(__file__).parents[2]


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 6) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ effective_parameter(self, "mix").mT


class Everything(nn.Module):
    """Convolutions (one depthwise), attention, a fused projection with slices, a layer, a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.qkv = nn.Linear(6, 18)
        self.fc = nn.Linear(18, 6)
        self.raw = Raw()

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(self.stem(image)).flatten(2).mT
        x = x + self.attn(x, x, x, need_weights=False)[0].clone()
        return self.raw(self.fc(self.qkv(x)).tanh())


CONFIG = LoRAConfig(
    r=3,  # does not divide among two processes
    target_modules=["stem", "deep", "attn", "qkv", "fc"],
    target_parameters=["raw.mix"],
    slices={"qkv": ["q", "v"]},
)


def make(config: LoRAConfig = CONFIG) -> Everything:
    torch.manual_seed(0)
    net = inject_lora(Everything(), config)
    for parameter in get_lora_params(net):
        nn.init.normal_(parameter, std=0.2)
    return net


def images(number: int = 3) -> list[Tensor]:
    return list(torch.randn(number, 4, 3, 5, 5, generator=torch.Generator().manual_seed(5)))


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, get_lora_params(net)))


def check_compiled(backend: str, training: bool) -> None:
    net, (x, *_) = make().train(training), images()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True)  # any break is an error
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-6, atol=1e-6)
    pairs = zip(gradients(net, compiled(x).square().mean()), gradients(net, net(x).square().mean()), strict=True)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_compiled_without_a_graph_break(training):
    x = images()[0]
    assert fused.fusable(x, make().stem.weight, None), "eagerly, the fused pass is what it is compared with"
    check_compiled("aot_eager", training)
    explained = torch._dynamo.explain(make().train(training))(x)
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1


@pytest.mark.parametrize("layer", [nn.Linear(16, 12), nn.Conv2d(16, 12, 3, padding=1)], ids=["linear", "conv"])
def test_the_fused_pass_is_compiled_too(layer):
    shape = (40, 16) if isinstance(layer, nn.Linear) else (4, 16, 8, 8)
    net, x = inject_lora(nn.Sequential(copy.deepcopy(layer)), LoRAConfig(r=2, target_modules=["0"])), torch.randn(shape)
    nn.init.normal_(net[0].lora_B)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    compiled = torch.compile(net, backend=keep, fullgraph=True)
    for found, wanted in zip(
        gradients(net, compiled(x).square().sum()), gradients(net, net(x).square().sum()), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert "autograd_function_apply" in graphs[0]
    torch._dynamo.reset()  # where it does not hold, the ordinary operations are compiled
    by_sample = torch.compile(torch.func.vmap(lambda sample: net(sample[None])[0]), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(by_sample(x), net(x), rtol=1e-5, atol=1e-5)
    exported = torch.export.export(net.eval(), (x,))
    assert "autograd_function_apply" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
def test_compiled_by_inductor(training):
    check_compiled("inductor", training)


def test_dropout_compiles_without_a_graph_break():
    config = LoRAConfig(r=3, lora_dropout=0.5, target_modules=["stem", "deep", "attn", "fc"])
    net, (x, *_) = make(config), images()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert not torch.equal(compiled(x), compiled(x))
    net.eval()
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-6, atol=1e-6)


def test_another_value_of_a_factor_needs_no_compilation():
    net, (x, *_) = make().eval(), images()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    compiled(x)
    state = {name: tensor + 0.1 for name, tensor in get_lora_state_dict(net).items()}
    load_lora_state_dict(net, state)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = compiled(x)
    torch.testing.assert_close(found, net(x), rtol=1e-6, atol=1e-6)


def test_exported_adapted_and_merged():
    net, (x, *_) = make().eval(), images()
    for model in (net, merge_lora_weights(net, inplace=False)):
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), net(x), rtol=1e-5, atol=1e-6)


def test_copied_and_pickled():
    net, (x, *_) = make(), images()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert type(twin.attn) is type(net.attn)
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
        twin.fc.lora_B.data.add_(1)
        assert not torch.equal(twin(x), net(x))


# ------------------------------------------------------------------------------------------------ several processes

PROCESS = """
import sys, warnings
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from tests.lora.test_compile_export_ddp import images, make
from lorgnette.lora import get_lora_state_dict, load_lora_state_dict, merge_lora_weights

warnings.simplefilter("ignore")
kind, file = sys.argv[1:]
dist.init_process_group("gloo")
rank = dist.get_rank()
net = model = make()
if kind == "ddp":
    model = nn.parallel.DistributedDataParallel(net)
else:
    mesh = init_device_mesh("cpu", (2,))
    if kind == "fsdp of parts":
        for part in (net.stem, net.deep, net.attn, net.qkv, net.fc, net.raw):
            fully_shard(part, mesh=mesh)
    fully_shard(net, mesh=mesh)
    start = {name: tensor.clone() for name, tensor in get_lora_state_dict(net).items()}
    for parameter in net.parameters():
        if parameter.requires_grad:
            nn.init.zeros_(parameter)
    load_lora_state_dict(net, start)  # into the parts
optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)
for batch in images():
    optimizer.zero_grad()
    model(batch[2 * rank : 2 * rank + 2]).square().mean().backward()
    optimizer.step()
state = get_lora_state_dict(net)
assert not any(isinstance(tensor, torch.distributed.tensor.DTensor) for tensor in state.values())
if rank == 0:
    torch.save(dict(state), file)
dist.destroy_process_group()
"""


def trained_in_two_processes(kind: str, folder: Path) -> dict[str, Tensor]:
    file = folder / "script.py"
    file.write_text(PROCESS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        env = os.environ | {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "RANK": rank,
            "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        words = [sys.executable, str(file), kind, str(folder / "state.pt")]
        processes.append(subprocess.Popen(words, env=env, text=True, stderr=subprocess.PIPE))
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:  # one that waits for another that is gone
            process.kill()
            process.wait()
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize(
    "kind", ["fsdp of parts", pytest.param("fsdp", marks=pytest.mark.slow), pytest.param("ddp", marks=pytest.mark.slow)]
)
def test_two_processes_train_as_one(kind, tmp_path):
    net = make()
    optimizer = torch.optim.AdamW(get_lora_params(net), lr=0.01)
    for batch in images():
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    wanted, found = get_lora_state_dict(net), trained_in_two_processes(kind, tmp_path)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)
