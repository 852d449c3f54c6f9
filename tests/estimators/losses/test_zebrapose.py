"""Losses of codes against values that were worked out in double precision, and their edges."""

import numpy as np
import pytest
import torch
from torch import Tensor

from posedistill.estimators.losses import zebrapose as losses


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MASK_LOGITS = tensor([[[[2, -1, 0.5], [0.1, -0.2, 3]]]])
MASK = tensor([[[1, 1, 0], [1, 0, 1]]])
CODE_LOGITS = tensor(
    [
        [
            [[1.5, -0.5, 0.25], [-2, 0.75, 0.1]],
            [[-0.3, 0.6, -1.2], [0.9, -0.1, -0.4]],
            [[0.2, -0.2, 0.05], [0.4, 1.1, -0.6]],
        ]
    ]
)
BITS = tensor([[[[1, 0, 0], [1, 0, 1]], [[0, 1, 0], [1, 0, 0]], [[1, 1, 0], [0, 0, 1]]]])


def leaves() -> tuple[Tensor, Tensor]:
    return MASK_LOGITS.clone().requires_grad_(), CODE_LOGITS.clone().requires_grad_()


def close(found: Tensor, expected: list[float] | float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def test_corrected_form() -> None:
    mask, code = leaves()
    terms = losses.code_terms(code, BITS, MASK)
    close(terms.losses, [0.861704, 0.461503, 0.836695])
    errors = losses.running_errors(torch.full((3,), losses.UNSEEN, dtype=torch.float64), terms)
    close(errors, [0.25, 0, 0.75])
    weights = losses.bit_weights(errors)
    close(weights, [0.589798, 0.278601, 0.131602])
    of_code, of_mask = (weights * terms.losses).sum(), losses.mask_loss(mask, MASK, tensor([1.0]))
    close(of_code, 0.746916)
    close(of_mask, 0.617565)
    close(losses.soft_dice(mask, MASK), 0.281075)
    close(of_code + of_mask, 1.364481)
    (of_code + of_mask).backward()
    assert code.grad is not None and mask.grad is not None
    close(code.grad[0, :, 0, 1], [0.055668, -0.024680, -0.018090])
    close(code.grad[0, :, 0, 2], [0, 0, 0])
    close(mask.grad[0, 0, 0], [-0.019867, -0.121843, 0.103743])


def test_published_form() -> None:
    mask, code = leaves()
    terms = losses.published_code_terms(code, BITS, mask)
    errors = losses.running_errors(torch.full((3,), losses.UNSEEN, dtype=torch.float64), terms)
    close(errors, [0.4, 0, 0.6])
    weights = losses.bit_weights(errors, 0.51)
    close(weights, [0.440969, 0.317023, 0.242009])
    of_code, of_mask = (weights * terms.losses).sum(), losses.published_mask_loss(mask, MASK)
    close(of_code, 0.730343)
    close(of_mask, 0.407556)
    (3 * of_code + of_mask).backward()
    assert code.grad is not None and mask.grad is not None
    close(code.grad[0, :, 0, 0], [-0.040222, 0.067456, -0.054472])
    close(code.grad[0, :, 0, 1], [0, 0, 0])
    close(mask.grad[0, 0, 0], [-0.017499, -0.032769, 0.039167])
    second = losses.published_code_terms(-CODE_LOGITS, BITS, MASK_LOGITS)
    errors = losses.running_errors(errors, second)
    close(errors, [0.4, 0.04, 0.58])
    weights = losses.bit_weights(errors, 0.51)
    close(weights, [0.417827, 0.338684, 0.243488])
    close((weights * second.losses).sum(), 0.800827)


def test_nothing_seen_gives_nothing_and_keeps_the_history() -> None:
    _, code = leaves()
    terms = losses.code_terms(code, BITS, torch.zeros_like(MASK))
    close(terms.losses, [0, 0, 0])
    terms.losses.sum().backward()
    assert code.grad is not None and bool(code.grad.isfinite().all())
    close(losses.running_errors(tensor([0.1, 0.2, 0.3]), terms), [0.1, 0.2, 0.3])


def test_a_batch_of_equal_images_is_one_image() -> None:
    one = losses.code_terms(CODE_LOGITS, BITS, MASK)
    two = losses.code_terms(CODE_LOGITS.repeat(2, 1, 1, 1), BITS.repeat(2, 1, 1, 1), MASK.repeat(2, 1, 1))
    close(two.losses, one.losses.tolist())
    twice = losses.mask_loss(MASK_LOGITS.repeat(2, 1, 1, 1), MASK.repeat(2, 1, 1), tensor([1.0, 1.0]))
    close(twice, 0.617565)


def test_right_bits_have_no_errors_and_trust_weighs_crops() -> None:
    right = losses.code_terms(8 * (BITS - 0.5), BITS, MASK)
    close(right.errors, [0, 0, 0])
    logits, bits, masks = (value.repeat(2, *[1] * (value.ndim - 1)) for value in (CODE_LOGITS, BITS, MASK))
    logits[1] = 100.0
    trusted = losses.code_terms(logits, bits, masks * tensor([1.0, 0.0])[:, None, None])
    close(trusted.losses, [0.861704, 0.461503, 0.836695])


@pytest.mark.parametrize("hopeless", [0.5, 0.51])
def test_half_learned_bits_weigh_most(hopeless: float) -> None:
    weights = losses.bit_weights(tensor([0.0, 0.1, 0.25, 0.4, 0.5]), hopeless)
    assert weights.argmax() == 2 and weights.sum().item() == pytest.approx(1)
