from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from posedistill.data.loading.batch import Batch
from posedistill.distill import Example
from posedistill.distill.functional import bank as bank_module
from posedistill.distill.functional.bank import MomentumBank, PictureBank, fill_bank, free_bytes, refuse_beyond_memory
from posedistill.errors import RecipeError
from posedistill.estimators.views import Prediction

WIDTH = 3
CPU = torch.device("cpu")


def example(batch: Batch, parts: int = 3, pictures: int | None = None, width: int = WIDTH) -> Example:
    """Training pictures of which picture ``i`` has id ``100 - 5 i``, and all that is stored of it tells that id."""

    def training_pictures() -> Iterator[tuple[Prediction, Batch]]:
        for part in range(parts):
            ids = 100 - 5 * (torch.arange(len(batch)) + part * len(batch))
            told = ids[:, None].float()
            yield (
                Prediction({}, embedding=told.expand(-1, width).bfloat16().requires_grad_()),
                replace(batch, ids=ids, R=told[:, None] * torch.eye(3), t=told.expand(-1, 3)),
            )

    count = parts * len(batch) if pictures is None else pictures
    return Example(Prediction({}), Prediction({}), batch, training_pictures, count)


def test_each_picture_finds_its_own_row(batch: Batch) -> None:
    bank = fill_bank("contrast", example(batch), WIDTH)
    assert len(bank) == 12 and bank.ids.tolist() != sorted(bank.ids.tolist(), reverse=True)  # shuffled
    assert bank.embeddings.dtype == torch.float32 and not bank.embeddings.requires_grad
    asked = torch.tensor([100, 45, 60, 61, 1000, -3])
    rows, known = bank.rows(asked)
    assert known.tolist() == [True, True, True, False, False, False]
    assert bank.ids[rows][known].tolist() == [100, 45, 60]
    for stored in (bank.embeddings[:, 0], bank.R[:, 1, 1]):
        assert stored.long().equal(bank.ids)
    torch.testing.assert_close(bank.centers[:, 0], -(bank.ids.float() ** 2))


def test_a_bank_of_poses_alone(batch: Batch) -> None:
    bank = fill_bank("contrast", example(batch), 0)
    assert bank.embeddings.shape == (12, 0) and len(bank) == 12


def test_draws_repeat_and_vary(batch: Batch) -> None:
    """The same batch draws the same rows, after a resume too; another batch others; over time all are drawn."""
    bank, again = (fill_bank("contrast", example(batch), WIDTH) for _ in range(2))
    ids = torch.tensor([100, 45, 60, 50])
    assert bank.draw(ids, 5).equal(again.draw(ids, 5)) and bank.ids.equal(again.ids)
    drawn = [bank.draw(torch.randint(0, 1000, (4,), generator=torch.Generator().manual_seed(s)), 5) for s in range(40)]
    assert all(len(set(rows.tolist())) == 5 for rows in drawn)
    counts = torch.cat(drawn).bincount(minlength=12)
    assert counts.min() > 0
    assert sorted(bank.draw(ids, 100).tolist()) == list(range(12))


def test_a_bank_beyond_memory_is_refused_before_it_is_filled(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "free_bytes", lambda device: 1000)
    fill_bank("contrast", example(batch, width=20), 20)  # 12 x 20 x 4 = 960

    def training_pictures() -> Iterator[tuple[Prediction, Batch]]:
        raise AssertionError("nothing is predicted")

    with pytest.raises(RecipeError) as caught:
        fill_bank("contrast", replace(example(batch), training_pictures=training_pictures), 21)
    told = "found a bank of 12 x 21 numbers, 1008 bytes, expected at most the 1000 bytes free on cpu"
    assert told in str(caught.value)


def test_no_machine_has_a_petabyte() -> None:
    assert 0 < free_bytes(CPU) < 2**50
    with pytest.raises(RecipeError, match=f"{2**52} bytes, expected at most"):
        refuse_beyond_memory("contrast", 2**40, 2**10, CPU)


@pytest.mark.parametrize(("told", "found"), [(0, "no training"), (11, "over 11 pictures"), (13, "12 training")])
def test_more_or_fewer_pictures_than_told_are_refused(batch: Batch, told: int, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        fill_bank("contrast", example(batch, pictures=told), WIDTH)


def test_momentum_rows_have_length_1_and_unknown_pictures_move_nothing() -> None:
    torch.manual_seed(0)
    banks = MomentumBank(5, 12, CPU)
    assert banks.student.abs().max() <= 0.5 and not banks.student.equal(banks.teacher)
    before, fresh = banks.student.clone(), torch.nn.functional.normalize(torch.randn(2, 12), dim=1)
    banks.update(torch.tensor([1, 3]), torch.tensor([True, False]), fresh, fresh)
    torch.testing.assert_close(banks.student[1].norm(), torch.tensor(1.0))
    assert banks.student[[0, 2, 3, 4]].equal(before[[0, 2, 3, 4]])


def test_the_first_scores_set_the_constant_of_their_side() -> None:
    banks, scores = MomentumBank(5, 4, CPU), torch.randn(3, 7)
    first = banks.normalise(1, scores)
    assert first.exp().mean().item() == pytest.approx(1 / 5)
    assert banks.log_z.isnan().tolist() == [True, False]
    torch.testing.assert_close(banks.normalise(1, 2 * scores), first + scores)


def test_a_bank_of_one_picture() -> None:
    bank = PictureBank(torch.zeros(1, 0), torch.zeros(1, 3, 3), torch.zeros(1, 3), torch.tensor([7]))
    assert bank.draw(torch.tensor([7]), 4).tolist() == [0]
