from __future__ import annotations

import pytest
import torch

from scribblesegment.errors import ConfigError, NetworkError
from scribblesegment.refinement.outputs import Output, log_likelihood

IMAGE = torch.zeros(1, 1, 4, 5)


def test_the_first_of_several_outputs_is_taken_unless_another_is_picked():
    returned = [torch.zeros(1, 2, 4, 5), torch.ones(1, 2, 2, 3)]
    assert Output().tensor(returned) is returned[0]
    assert Output(pick=1).tensor(tuple(returned)) is returned[1]


def test_an_output_is_picked_by_its_name():
    returned = {"features": torch.zeros(1, 7, 4, 5), "logits": torch.ones(1, 2, 4, 5)}
    assert Output(pick="logits").tensor(returned) is returned["logits"]


@pytest.mark.parametrize(
    ("returned", "pick"), [({"a": torch.zeros(1)}, "b"), ([torch.zeros(1)], 3), ({}, None), ([], None)]
)
def test_an_output_that_is_not_there_is_named(returned, pick):
    with pytest.raises(NetworkError, match="returns no output"):
        Output(pick=pick).tensor(returned)


def test_something_that_is_no_tensor_is_refused():
    with pytest.raises(NetworkError, match="str instead of a tensor"):
        Output().tensor("logits")


def test_an_argmax_is_refused():
    with pytest.raises(NetworkError, match="int64 values, which have no gradient"):
        Output().require_logits(torch.zeros(1, 3, 4, 5, dtype=torch.int64), IMAGE)


@pytest.mark.parametrize("shape", [(1, 3, 2, 5), (1, 3), (1, 4, 5), (1, 0, 4, 5)])
def test_an_output_of_another_size_is_refused(shape):
    with pytest.raises(NetworkError, match="logits for every pixel"):
        Output().require_logits(torch.zeros(shape), IMAGE)


def test_a_prediction_with_nan_is_refused():
    with pytest.raises(NetworkError, match="NaN or infinite"):
        Output().require_logits(torch.full((1, 2, 4, 5), torch.nan), IMAGE)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="softmax, sigmoid"):
        Output("tanh")


def test_one_channel_is_read_as_sigmoid():
    assert Output().resolved(torch.randn(1, 1, 4, 5)).activation == "sigmoid"


def test_probabilities_are_told_from_logits():
    logits = torch.randn(1, 3, 4, 5)
    assert Output().resolved(logits).probabilities is False
    assert Output().resolved(logits.softmax(1)).probabilities is True
    # Values in [0, 1] that do not sum to 1 are logits of exclusive labels, or probabilities of single structures.
    assert Output().resolved(logits.sigmoid()).probabilities is False
    assert Output("sigmoid").resolved(logits.sigmoid()).probabilities is True
    assert Output(probabilities=False).resolved(logits.softmax(1)).probabilities is False
    assert Output("sigmoid").resolved(torch.zeros(1, 1, 4, 5)).probabilities is False


@pytest.mark.parametrize("from_probabilities", [False, True])
def test_softmax_outputs_keep_their_distribution(from_probabilities):
    logits = torch.randn(1, 3, 4, 5)
    values = logits.softmax(1) if from_probabilities else logits
    read = Output(probabilities=from_probabilities).class_logits(values)
    torch.testing.assert_close(read.softmax(1), logits.softmax(1))


@pytest.mark.parametrize("from_probabilities", [False, True])
def test_one_sigmoid_channel_becomes_a_softmax_over_two_labels(from_probabilities):
    logits = torch.randn(1, 1, 4, 5)
    values = logits.sigmoid() if from_probabilities else logits
    read = Output("sigmoid", from_probabilities).class_logits(values)
    assert read.shape == (1, 2, 4, 5)
    torch.testing.assert_close(read.softmax(1)[:, 1:], logits.sigmoid())


def test_a_structure_is_predicted_where_its_sigmoid_channel_is_above_zero_and_highest():
    # Channels are structures, pixels lie side by side.
    channels = torch.tensor([[-1.0, 1.0, 4.0], [-2.0, 3.0, 1.0]]).reshape(1, 2, 1, 3)
    read = Output("sigmoid", False).class_logits(channels)
    assert read.argmax(1).flatten().tolist() == [0, 2, 1]


def test_probabilities_of_zero_and_one_stay_finite_and_keep_a_gradient():
    values = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert torch.isfinite(Output("sigmoid", True).class_logits(values)).all()


def test_labels_are_counted_with_the_background():
    assert Output().label_count(3) == 3
    assert Output("sigmoid").label_count(3) == 4


def test_the_log_likelihood_is_the_logarithm_of_the_probability():
    logits = torch.randn(6, 3)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    expected = logits.softmax(1)[torch.arange(6), labels].log()
    torch.testing.assert_close(log_likelihood(logits, labels), expected)
