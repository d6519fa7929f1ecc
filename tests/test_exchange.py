"""The exchange rate of applications and blocks: closed forms, a naive evaluation of intervals, and refusals."""

import numpy as np
import pandas as pd
import pytest

import iterconv as ic
from iterconv.tying.exchange import exchange_rate, monotone, worth_of


def networks(tied, untied, seeds=3, noise=0.0, base=100, block=10):
    """Runs whose errors follow two functions of the number of blocks."""
    generator = np.random.default_rng(0)
    rows = []
    for kind, error in ((False, untied), (True, tied)):
        for blocks in range(2 if kind else 1, 9):
            for seed in range(seeds):
                value = error(blocks) + noise * generator.normal()
                size = base + block * (1 if kind else blocks)
                rows.append({"tied": kind, "blocks": blocks, "parameters": size, "seed": seed, "error": value})
    return pd.DataFrame(rows)


def test_equal_curves_are_worth_a_block_each():
    found = exchange_rate(networks(lambda k: 1 / k, lambda k: 1 / k))
    assert found.table.worth.to_numpy() == pytest.approx(range(1, 9)) and found.table.low[3] == pytest.approx(4)
    assert found.table.gain[1:].to_numpy() == pytest.approx(1) and np.isnan(found.table.gain[0])
    assert found.table.parameters.to_numpy() == pytest.approx(100 + 10 * np.arange(1, 9))
    assert found.exponent == pytest.approx((1, 1, 1)) and (found.table.outside == 0).all()
    assert found.untied.fitted.to_numpy() == pytest.approx(1 / np.arange(1, 9))


def test_applications_that_bring_nothing_are_worth_one_block():
    found = exchange_rate(networks(lambda k: 1.0, lambda k: 1 / k))
    assert (found.table.worth == 1).all() and (found.table.gain[1:] == 0).all() and found.exponent == (0, 0, 0)


def test_the_worth_follows_a_power_between_whole_numbers_of_blocks():
    """Errors fall linearly with untied blocks, so that interpolation is exact."""
    found = exchange_rate(networks(lambda k: 2 - 0.1 * k**0.4, lambda k: 2 - 0.1 * k))
    assert found.table.worth.to_numpy() == pytest.approx(np.arange(1, 9) ** 0.4)
    assert found.exponent[0] == pytest.approx(0.4)
    better = exchange_rate(networks(lambda k: 2 - 0.1 * k**1.5, lambda k: 2 - 0.1 * k))
    assert better.table.worth.max() == 8 and (better.table.outside == [0, 0, 0, 0, 1, 1, 1, 1]).all()


def test_intervals_are_those_of_a_naive_bootstrap():
    runs = networks(lambda k: 1 / k**0.5, lambda k: 1 / k, seeds=5, noise=0.05)
    found = exchange_rate(runs, resamples=30, seed=3, confidence=0.9)
    single = runs[(runs.blocks == 1)].assign(tied=True)
    everything, generator = pd.concat([runs, single]), np.random.default_rng(3)
    worths, slopes = [], []
    for drawn in generator.integers(5, size=(30, 5)):
        means = {
            kind: [
                np.mean([own.error[own.seed == seed].item() for seed in drawn])
                for _, own in everything[everything.tied == kind].groupby("blocks")
            ]
            for kind in (True, False)
        }
        # Pool adjacent violators, written out.
        pools = []
        for value in means[False]:
            pools.append([value])
            while len(pools) > 1 and np.mean(pools[-1]) > np.mean(pools[-2]):
                last = pools.pop()
                pools[-1] += last
        curve = [np.mean(pool) for pool in pools for _ in pool]
        own = []
        for error in means[True]:
            fine = np.linspace(1, 8, 7_001)
            below = np.interp(fine, range(1, 9), curve) <= error + 1e-12
            own.append(fine[below.argmax()] if below.any() else 8)
        worths.append(own)
        logs = np.log(np.arange(1, 9))
        slopes.append(np.log(np.array(own) / own[0]) @ logs / (logs @ logs))
    low, high = np.quantile(worths, [0.05, 0.95], axis=0)
    assert found.table.low.to_numpy() == pytest.approx(low, abs=2e-3)
    assert found.table.high.to_numpy() == pytest.approx(high, abs=2e-3)
    assert found.exponent[1:] == pytest.approx(np.quantile(slopes, [0.05, 0.95]), abs=2e-3)
    assert (found.table.low <= found.table.worth).all() and (found.table.worth <= found.table.high).all()


def test_plateaus_are_reached_with_the_fewest_blocks():
    blocks, curve = np.arange(1.0, 6), np.array([4.0, 2.0, 2.0, 1.0, 1.0])
    errors = np.array([5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5])
    assert worth_of(blocks, curve, errors) == pytest.approx([1, 1, 1.5, 2, 3, 4, 4])
    assert monotone(np.array([3.0, 1.0, 2.0, 0.0])) == pytest.approx([3, 1.5, 1.5, 0])
    assert worth_of(blocks, np.ones(5), errors) == pytest.approx(np.ones(7)), "where nothing helps, one block does"


def test_tables_that_do_not_fit_are_refused():
    runs = networks(lambda k: 1 / k, lambda k: 1 / k)
    for table, message in (
        (runs.drop(columns="seed"), "no column 'seed'; it needs tied, blocks, parameters, seed, error"),
        (runs[~((runs.blocks == 3) & (runs.seed == 1))], "tied networks are missing"),
        (pd.concat([runs, runs[:1]]), "are there twice"),
        (runs[~(runs.tied & (runs.seed == 1))], "networks are missing|different seeds"),
        (runs[~runs.tied], "tied networks are missing"),
    ):
        with pytest.raises(ic.InputError, match=message) as problem:
            exchange_rate(table)
        assert "\n" not in str(problem.value)
    assert np.isnan(exchange_rate(runs, resamples=0).table.low).all()
