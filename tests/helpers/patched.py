"""The oracle: a model's own forward pass, once, in which the blocks of a stage are executed along a path.

Nothing here knows the package. What `patched` returns defines the truth:

- The model calls the stage's blocks at places 0, 1, ..., T-1 (a module that is executed several times has several).
- Element k of the path is executed at place(k) = max(place(k-1), path[k]), elements in their order; the first element
  of a place is therefore the place's own block. A place without elements hands on its input.
- A block gets its own arguments, those that the model gave in this very pass at the block's own place, but the running
  representation in the place of the representation. At the end of a place the model gets what the last block returned.
- Calls after place T-1 (loops whose length depends on the data) run if the path ends with the last block; otherwise
  they hand on.
- The representation is every *stream*: a tensor of a block's result that the next block gets as an argument, where the
  block itself had an argument of the same shape. If the first tensor of the result is no stream, it is one with
  the first argument of its shape that belongs to none (so where something happens between all blocks), and with all
  arguments that are the same tensor at every place.
- Forward hooks that a library put on its own blocks (transformers collects hidden states so) fire once for each place,
  hooks of anybody else once for each application of a block.
- Blocks that each make a tuple of tensors in the shapes of as many of their first arguments hand on all of them.
- Where a block's result holds more than streams, a dropped block is run on its input for the rest, without its hooks.
"""

import contextlib
import copy
import dataclasses
import random
from collections.abc import MutableMapping

import numpy as np
import torch
from torch import nn

CALL = nn.Module.__call__
OWN_TO_MODULES = frozenset(vars(nn.Module()))


def patched(model, blocks, path, inputs, calls=None):
    """The model's whole output of `inputs` where the stage `blocks` (one module for each place) executes `path`.

    `calls` is what `recorded` told of the same model, blocks and inputs, for whoever asks for many paths.
    """
    calls = recorded(model, blocks, inputs) if calls is None else calls
    assert [block for block, _, _ in calls[: len(blocks)]] == list(blocks), "the blocks aren't executed in their turn"
    return run(model, blocks, Patch(blocks, path, calls), inputs)


def recorded(model, blocks, inputs):
    """An ordinary pass: of each call of a block of the stage, in turn, the module, the arguments and the result."""
    calls = []

    def record(block, arguments):
        given = mapped(lambda _, leaf: leaf, arguments)
        result = CALL(block, *arguments[0], **arguments[1])
        calls.append((block, given, mapped(lambda _, leaf: leaf, result)))
        return result

    run(model, blocks, record, inputs)
    return calls


class Patch:
    """What stands for the blocks of a stage in a pass: each call of one of them is the next place."""

    def __init__(self, blocks, path, calls):
        self.blocks, self.path, self.calls = blocks, path, calls
        self.streams = find_streams(calls, len(blocks))
        self.places = []
        for index in path:
            self.places.append(max(index, self.places[-1] if self.places else 0))
        self.own = []  # the arguments of each place, as the model gave them in this pass

    def __call__(self, block, arguments):
        library, kept = type(block).__module__.split(".")[0], {}
        for each in self.blocks:
            kept[each] = dict(each._forward_hooks)
            for key, hook in kept[each].items():
                if library != "__main__" and hook.__module__.split(".")[0] == library:
                    del each._forward_hooks[key]
        try:
            result = self.executed(block, arguments)
        finally:
            for each, hooks in kept.items():
                own = {key: hook for key, hook in hooks.items() if key not in each._forward_hooks}
                each._forward_hooks.clear()
                each._forward_hooks.update(hooks)
                kept[each] = own
        for hook in kept[block].values():  # the library's own see what a place makes
            changed = hook(block, arguments[0], result)
            result = result if changed is None else changed
        return result

    def executed(self, block, arguments):
        place = len(self.own)
        self.own.append(mapped(lambda _, leaf: leaf, arguments))
        elements = [index for index, at in zip(self.path, self.places, strict=True) if at == place]
        last = len(self.blocks) - 1
        if place > last and self.path and self.path[-1] == last:
            return CALL(block, *arguments[0], **arguments[1])
        if not elements:
            return self.handed_on(block, place)
        assert elements[0] == place
        result = CALL(block, *arguments[0], **arguments[1])
        running = self.inputs(place)
        for index in elements[1:]:
            made = leaves(result)
            running |= {output: made[output] for output in running if is_tensor(made.get(output))}
            args, kwargs = self.with_representation(index, running)
            result = CALL(self.blocks[index], *args, **kwargs)
        return result

    def inputs(self, place):
        """For each stream that the model gave at a place, the tensor."""
        given = leaves(self.own[place])
        tensors = {output: given.get(argument) for output, argument in reversed(self.streams)}  # the first one wins
        return {output: tensor for output, tensor in tensors.items() if is_tensor(tensor)}

    def with_representation(self, place, running):
        """The own arguments of a place, with the running representation."""
        put = {argument: running[output] for output, argument in self.streams if output in running}
        return mapped(lambda at, leaf: put[at] if at in put and is_tensor(leaf) else leaf, self.own[place])

    def handed_on(self, block, place):
        """What a dropped block returns: its input in every stream, and the rest as it would be."""
        _, given, result = self.calls[min(place, len(self.calls) - 1)]
        running, before, made = self.inputs(place), leaves(given), leaves(result)
        if any(leaf is not None and output not in running for output, leaf in made.items()):
            args, kwargs = self.with_representation(place, {output: z.clone() for output, z in running.items()})
            result = block.forward(*args, **kwargs)
        for output, argument in self.streams:  # what the block would make anew is not what the model gave
            if output in running and not same(made.get(output), before.get(argument)):
                running[output] = running[output].clone()
        return mapped(lambda at, leaf: running.get(at, leaf), result)


def find_streams(calls, number):
    """Pairs of an output's and an argument's position, of an ordinary pass."""
    streams = []
    for (_, own, result), (_, following, _) in zip(calls[: number - 1], calls[1:number], strict=True):
        own, following = leaves(own), leaves(following)
        for output, tensor in leaves(result).items():
            for argument, given in following.items():
                if same(tensor, given) and shape(own.get(argument)) == shape(tensor):
                    streams.append((output, argument))
    streams = list(dict.fromkeys(streams))
    given, made = leaves(calls[0][1]), leaves(calls[0][2])
    first = next((output for output, leaf in made.items() if is_tensor(leaf)), None)
    free = [at for at, leaf in given.items() if is_tensor(leaf) and at not in {argument for _, argument in streams}]
    free = [at for at in free if first is not None and shape(given[at]) == shape(made[first])]
    if free and first not in {output for output, _ in streams}:
        everywhere = [leaves(arguments) for _, arguments, _ in calls[:number]]
        streams += [(first, at) for at in free if all(same(each.get(free[0]), each.get(at)) for each in everywhere)]
    streams += [pair for pair in one_to_one(calls[:number]) if pair[0] not in {output for output, _ in streams}]
    assert streams, "the blocks of the stage hand nothing on"
    return streams


def one_to_one(calls):
    """Pairs by position, where each block makes a tuple of tensors of the shapes of as many of its first arguments."""
    for _, (args, _), result in calls:
        if not isinstance(result, tuple | list) or not 2 <= len(result) <= len(args):
            return []
        if not all(is_tensor(made) and shape(made) == shape(given) for made, given in zip(result, args, strict=False)):
            return []
    return [((number,), (0, number)) for number in range(len(calls[0][2]))]


def is_tensor(leaf):
    return isinstance(leaf, torch.Tensor)


def shape(leaf):
    if not is_tensor(leaf):
        return None
    return str(leaf._nested_tensor_size()) if leaf.is_nested else tuple(leaf.shape)


def same(one, other):
    """Whether two leaves are one tensor: the same object, or the same memory in the same shape."""
    if not is_tensor(one) or not is_tensor(other):
        return False
    return one is other or (shape(one) == shape(other) and one.data_ptr() == other.data_ptr() != 0)


def mapped(function, tree, at=()):
    """The tree rebuilt, with function(position, leaf) in the place of every leaf."""
    if isinstance(tree, MutableMapping):
        fresh = copy.copy(tree)
        for key in tree:
            fresh[key] = mapped(function, tree[key], (*at, key))
        return fresh
    if isinstance(tree, tuple | list):
        items = [mapped(function, item, (*at, number)) for number, item in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fresh = copy.copy(tree)
        for field in dataclasses.fields(tree):
            object.__setattr__(fresh, field.name, mapped(function, getattr(tree, field.name), (*at, field.name)))
        return fresh
    return function(at, tree)


def leaves(tree):
    found = {}
    mapped(found.setdefault, tree)
    return found


def run(model, blocks, instead, inputs):
    """One pass of the model in which `instead(block, (args, kwargs))` stands for each call of a block of the stage."""
    stage = {id(block) for block in blocks}

    def call(module, *args, **kwargs):
        if id(module) not in stage:
            return CALL(module, *args, **kwargs)
        return instead(module, mapped(lambda _, leaf: None if is_cache(leaf) else leaf, (args, kwargs)))

    inputs = copy.deepcopy(inputs)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), left_as_it_was(model), without_cache(model):
        nn.Module.__call__ = call
        try:
            if isinstance(inputs, dict):
                return model(**inputs)
            return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        finally:
            nn.Module.__call__ = CALL


def is_cache(leaf):
    return type(leaf).__name__.endswith("Cache")


@contextlib.contextmanager
def without_cache(model):
    configs = [module.config for module in model.modules() if getattr(vars(module).get("config"), "use_cache", None)]
    for config in configs:
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs:
            config.use_cache = True


@contextlib.contextmanager
def left_as_it_was(model):
    """Random states, buffers and the plain attributes of all modules are afterwards as they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    registered = {id(each) for each in (*model.parameters(), *model.buffers())}

    def kept(_, leaf):
        return leaf.clone() if is_tensor(leaf) and id(leaf) not in registered else leaf

    attributes = [(module, mapped(kept, plain_attributes(module))) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for module, before in attributes:
            for name in set(plain_attributes(module)) - set(before):
                del vars(module)[name]
            vars(module).update(before)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def plain_attributes(module):
    """What users keep on modules, without configurations, which several modules share."""
    own = {name: value for name, value in vars(module).items() if name not in OWN_TO_MODULES}
    return {name: value for name, value in own.items() if not dataclasses.is_dataclass(value)}
