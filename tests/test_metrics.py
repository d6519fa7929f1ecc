import pytest
import torch
from torch.nn import functional as F

from iterconv.tasks import Classes, LabelSets
from iterconv.tasks.base import distance


def test_class_errors_and_cross_entropy():
    output, targets = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1])
    assert Classes().error(output, targets, 2 / 3).tolist() == [0, 1]
    expected = -torch.log_softmax(output, 1)[torch.arange(2), targets]
    torch.testing.assert_close(Classes().cross_entropy(output, targets), expected)
    assert Classes().chance(targets, 3) == pytest.approx(2 / 3)


def test_several_labels_are_missed_in_part():
    """n of K: the n highest outputs are predicted, the error is the share of labels missed."""
    output = torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]])
    assert LabelSets().error(output, targets, 0.5).tolist() == [0, 0.5, 1]
    assert LabelSets().chance(targets, 4) == 0.5
    assert LabelSets().predict(output, targets).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]
    expected = F.binary_cross_entropy_with_logits(output, targets, reduction="none").mean(1)
    torch.testing.assert_close(LabelSets().cross_entropy(output, targets), expected)


def test_guessing_has_the_chance_level():
    torch.manual_seed(0)
    labels = torch.rand(20_000, 10).argsort(1).argsort(1) < 3
    error = LabelSets().error(torch.randn(20_000, 10), labels.float(), 0.0).mean().item()
    assert error == pytest.approx(LabelSets().chance(labels.float(), 10), abs=0.01) and error == pytest.approx(
        0.7, abs=0.01
    )


def test_ties_are_broken_alike_everywhere():
    assert LabelSets().predict(torch.zeros(2, 4), torch.tensor([[1.0, 1, 0, 0]] * 2)).tolist() == [[1, 1, 0, 0]] * 2


def test_an_output_that_is_not_finite_counts_as_a_guess():
    output = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [1.0, 0.0]])
    assert Classes().error(output, torch.tensor([0, 0, 0]), 0.5).tolist() == [0.5, 0.5, 0]


def test_distance_is_euclidean_by_example():
    a, b = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    expected = [((x - y) ** 2).sum().sqrt().item() for x, y in zip(a, b, strict=True)]
    assert distance(a, b).tolist() == pytest.approx(expected)


def test_loss_is_the_mean_cross_entropy():
    output, targets = torch.randn(6, 4), torch.randint(4, (6,))
    torch.testing.assert_close(Classes().loss(output, targets), F.cross_entropy(output, targets))
