"""The prior is zero where nothing changed, grows with what changed, and teaches without being taught."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.systems.faceview.test_model import SMALL, batch, shake, small

from lorgnette.systems.faceview import EnhancedTransformerWithPrior, PriorPreservationLoss

PARTS = ("kl_loss", "feature_loss", "l2_loss")


def conditions(given: dict) -> dict:
    return {name: value for name, value in given.items() if name != "src"}


def test_the_seed_s_call():
    base, model = small(use_lora_attention=False, use_projection_layer=False), small()
    model.load_base(shake(base).state_dict())
    both, given = EnhancedTransformerWithPrior(model=model, base_model=base, lambda_prior=0.1), batch()
    targets = torch.randn(6, 32)

    def mse_loss(pred, target):
        return F.mse_loss(pred, target)

    loss, parts = both.compute_loss(
        inputs=given["src"], conditions=conditions(given), targets=targets, original_loss_fn=mse_loss
    )
    wanted = mse_loss(given["src"] + model(**given), targets).detach()  # of the sum, not of the residual
    assert parts["original_loss"] == pytest.approx(float(wanted))
    assert parts["prior_loss"] == pytest.approx(0, abs=1e-5)  # the adapters do nothing yet
    assert set(parts) == {"original_loss", "prior_loss", "total_loss", *PARTS}
    shake(model)
    loss, parts = both.compute_loss(given["src"], conditions(given), targets, mse_loss)
    assert float(loss.detach()) == pytest.approx(parts["original_loss"] + 0.1 * parts["prior_loss"])
    assert parts["prior_loss"] == pytest.approx(sum(parts[name] for name in PARTS), rel=1e-5)
    assert min(parts[name] for name in PARTS) > 1e-6
    loss.backward()
    assert all(p.grad is None for p in base.parameters())
    assert not base.training


def test_a_model_teaches_itself_with_its_adapters_switched_off():
    model, given = small(use_projection_layer=False), batch()
    shake(model)
    model.train()
    both = EnhancedTransformerWithPrior(model)
    taught = both.prior_loss.taught(model, given["src"], conditions(given))
    assert model.training
    plain = small(use_projection_layer=False, use_lora_attention=False)
    plain.load_base({name: value for name, value in model.state_dict().items() if "lora_" not in name})
    assert torch.allclose(taught, plain(**given, return_residual=False), atol=1e-6)
    assert not torch.allclose(taught, model.eval()(**given, return_residual=False), atol=1e-4)


def test_without_a_teacher_there_is_no_prior():
    both = EnhancedTransformerWithPrior(small(use_lora_attention=False))
    given = batch()
    loss, parts = both.compute_loss(given["src"], conditions(given), given["src"], F.mse_loss)
    assert parts == {"original_loss": float(loss.detach()), "prior_loss": 0.0, "total_loss": float(loss.detach())}
    assert torch.equal(both(**given), both.model(**given))


def test_the_prior_is_asked_on_samples_of_its_own():
    model, given, old = small(), batch(6), batch(4)
    shake(model)
    both = EnhancedTransformerWithPrior(model)
    _, same = both.compute_loss(given["src"], conditions(given), given["src"], F.mse_loss)
    _, replay = both.compute_loss(
        given["src"], conditions(given), given["src"], F.mse_loss, old["src"], conditions(old)
    )
    assert replay["original_loss"] == pytest.approx(same["original_loss"])
    assert replay["prior_loss"] != pytest.approx(same["prior_loss"], rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_distances(n: int):
    prior, a = PriorPreservationLoss(), torch.randn(n, 16)
    assert all(float(part) == pytest.approx(0, abs=1e-6) for part in prior.distances(a, 3 * a))
    b = a + 0.3 * torch.randn(n, 16)
    kl, feature, squares = prior.distances(a, b)
    assert 1e-6 < float(kl) < 100
    assert float(squares) == pytest.approx(2 * float(feature), rel=1e-4)  # |a - b|^2 = 2 - 2 cos of unit vectors
    assert float(feature) == pytest.approx(float((1 - F.cosine_similarity(a, b)).mean()), rel=1e-4)


def test_the_divergence_is_one_of_distributions():
    prior, (a, b) = PriorPreservationLoss(temperature=0.5), F.normalize(torch.randn(2, 5, 8), dim=-1)
    p, q = (b @ b.T / 0.5).softmax(-1), (a @ b.T / 0.5).softmax(-1)
    assert float(prior.distances(a, b)[0]) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)


def test_weights_of_the_parts():
    a, b = torch.randn(2, 5, 8)
    total, parts = PriorPreservationLoss(w_kl=0, w_feat=2, w_l2=0).prior(a, b)
    assert float(total) == pytest.approx(2 * float(parts["feature_loss"]))


def test_cached_samples_are_what_is_kept():
    model, given = shake(small(**SMALL)), batch()
    loss = PriorPreservationLoss(lambda_prior=1.0)
    assert loss.cache_prior_samples([batch(4), batch(5)], num_samples=6) == 6
    zero = torch.zeros(())
    total, parts = loss(model, given["src"], conditions(given), zero)
    again, _ = loss(model, torch.zeros(6, 32), conditions(given), zero)
    assert parts["prior_loss"] > 0
    expected = [float(_of(loss, model, n, m)) for n, m in ((4, 4), (5, 2))]
    assert any(float(total.detach()) == pytest.approx(e, rel=1e-4) for e in expected)
    assert any(float(again.detach()) == pytest.approx(e, rel=1e-4) for e in expected)


def _of(loss, model, n: int, m: int) -> torch.Tensor:
    given = {name: value[:m] for name, value in batch(n).items()}
    answer = model(**given, return_residual=False)
    return loss.prior(answer, loss.taught(model, given["src"], conditions(given)))[0].detach()
