"""The gradients that training uses are the coupled ones, whoever runs the training."""

import contextlib
import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

import distributed
import iterconv as ic
import zoo
from coupled import WithLoss, assert_equal_nets, blocks, fit_with_lightning, sgd

pytestmark = pytest.mark.medium


def loss_of(net, step, rows=slice(None)):
    inputs, targets = distributed.data(step)
    dtype = next(net.parameters()).dtype
    return nn.functional.cross_entropy(net(inputs[rows].to(dtype)).float(), targets[rows])


def by_hand(net, optimizer, strength=distributed.STRENGTH, clip=None, context=contextlib.nullcontext):
    """Coupled training with the mixture written out: the oracle."""
    for step in range(distributed.STEPS):
        optimizer.zero_grad()
        with context():
            loss = loss_of(net, step)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        for names in zip(*(dict(block.named_parameters()) for block in blocks(net)[0]), strict=True):
            gradients = [block.get_parameter(names[0]).grad for block in blocks(net)[0]]
            mean = sum(gradients) / len(gradients)
            for gradient in gradients:
                gradient.copy_((1 - strength) * gradient + strength * mean)
        optimizer.step()
    return net


OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_torch_optimizer(name):
    made = getattr(torch.optim, name)
    net, oracle = distributed.network(), distributed.network()
    optimizer = made(net.parameters(), lr=0.01)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    distributed.train(net, net, optimizer)
    assert_equal_nets(net, by_hand(oracle, made(oracle.parameters(), lr=0.01)))
    plain = distributed.network()
    distributed.train(plain, plain, made(plain.parameters(), lr=0.01))
    assert not torch.allclose(plain[1].inner.weight, net[1].inner.weight, atol=1e-6), "coupling does something"


def test_with_a_closure_as_lbfgs_takes_it():
    net, oracle = distributed.network(), distributed.network()
    options = {"lr": 0.1, "max_iter": 3}

    def closure_of(model, optimizer, mix):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            if mix:
                for name, _ in model[1].named_parameters():
                    gradients = [block.get_parameter(name).grad for block in blocks(model)[0]]
                    mean = torch.stack(gradients).mean(0)
                    for gradient in gradients:
                        gradient.lerp_(mean, distributed.STRENGTH)
            return loss

        return closure

    optimizer, reference = (torch.optim.LBFGS(model.parameters(), **options) for model in (net, oracle))
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    for _ in range(2):
        loss = optimizer.step(closure_of(net, optimizer, mix=False))
        expected = reference.step(closure_of(oracle, reference, mix=True))
        torch.testing.assert_close(loss, expected)
    assert_equal_nets(net, oracle)
    optimizer.step(closure=closure_of(net, optimizer, mix=False))
    reference.step(closure_of(oracle, reference, mix=True))
    assert_equal_nets(net, oracle)


def test_with_clipping_and_accumulation():
    net, oracle = distributed.network(), distributed.network()
    optimizer = sgd(net)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    for step in range(distributed.STEPS):
        optimizer.zero_grad()
        for rows in (slice(0, 4), slice(4, 8)):
            (loss_of(net, step, rows) / 2).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    assert_equal_nets(net, by_hand(oracle, sgd(oracle), clip=0.1))


@pytest.mark.parametrize("fused", [False, True])
def test_with_a_gradient_scaler(fused):
    net, oracle = distributed.network().float(), distributed.network().float()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    for step in range(distributed.STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(net, step)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_equal_nets(net, by_hand(oracle, torch.optim.AdamW(oracle.parameters(), lr=0.01)), rtol=1e-4, atol=1e-5)


def test_a_scaler_still_skips_steps_whose_gradients_overflow():
    net = distributed.network().float()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    scaler.scale(loss_of(net, 0)).backward()
    net[2].inner.weight.grad[0, 0] = torch.inf
    before = [p.detach().clone() for p in net.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))
    assert scaler.get_scale() < 1024


def test_with_autocast():
    net, oracle = distributed.network().float(), distributed.network().float()
    optimizer = sgd(net)
    half = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    for step in range(distributed.STEPS):
        optimizer.zero_grad()
        with half():
            loss = loss_of(net, step)
        loss.backward()
        optimizer.step()
    assert_equal_nets(net, by_hand(oracle, sgd(oracle), context=half))


@pytest.mark.filterwarnings("ignore")
def test_with_torch_compile():
    net, oracle = distributed.network(), distributed.network()
    optimizer = sgd(net)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    compiled = torch.compile(net, backend="aot_eager")  # inductor's code generation adds minutes, not coverage
    distributed.train(net, compiled, optimizer)
    assert_equal_nets(net, by_hand(oracle, sgd(oracle)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
def test_with_a_compiled_optimizer_step():
    net, oracle = distributed.network(), distributed.network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for number in range(distributed.STEPS):
        optimizer.zero_grad()
        loss_of(net, number).backward()
        step()
    # Compiled, Adam's bias correction is computed in single precision.
    by_hand(oracle, torch.optim.Adam(oracle.parameters(), lr=0.01))
    assert_equal_nets(net, oracle, rtol=1e-4, atol=1e-6)


def processes(kind, folder, world=2):
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", distributed.__file__, kind, str(rank), str(world), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    said = []
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            said.append(process.communicate(timeout=120)[0].decode())
        process.kill()
    files = [folder / f"{kind}-{rank}.pt" for rank in range(world)]
    assert all(file.exists() for file in files), "\n".join(said)[-3000:]
    return [torch.load(file) for file in files]


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.extended)])
def test_two_processes_come_to_what_one_does(kind, tmp_path):
    alone = distributed.network()
    optimizer = distributed.optimizer_of(alone)
    ic.couple(optimizer, blocks(alone), distributed.STRENGTH)
    distributed.train(alone, alone, optimizer)
    first, second = processes(kind, tmp_path)
    for name, parameter in alone.named_parameters():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], parameter.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.extended
def test_shards_that_do_not_correspond_are_refused(tmp_path):
    for found in processes("fsdp1", tmp_path):
        assert "use torch.distributed.fsdp.fully_shard" in found["refused"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
def test_with_lightning(tmp_path):
    zoo.torchvision()  # torchmetrics, which Lightning imports, imports it
    pytest.importorskip("pytorch_lightning")
    net, oracle = distributed.network(), distributed.network()

    def coupled(net):
        optimizer = sgd(net)
        ic.couple(optimizer, blocks(net), distributed.STRENGTH)
        return optimizer

    batches = [distributed.data(step) for step in range(distributed.STEPS)]
    options = {"max_epochs": 1, "gradient_clip_val": 0.1, "logger": False, "default_root_dir": tmp_path}
    fit_with_lightning(net, coupled, batches, **options)
    assert_equal_nets(net, by_hand(oracle, sgd(oracle), clip=0.1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.extended
def test_with_hugging_face(tmp_path):
    zoo.torchvision()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    net, oracle = distributed.network(), distributed.network()
    rows = [
        {"inputs": inputs, "labels": label}
        for step in range(distributed.STEPS)
        for inputs, label in zip(*distributed.data(step), strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        max_grad_norm=0.1,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = sgd(net)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    ic.couple(optimizer, blocks(net), distributed.STRENGTH)
    transformers.Trainer(WithLoss(net), arguments, train_dataset=rows, optimizers=(optimizer, constant)).train()
    assert_equal_nets(net, by_hand(oracle, sgd(oracle), clip=0.1))
