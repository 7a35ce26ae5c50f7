import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lm.errors import UserError
from lm.models import crf
from lm.models.crf import CRF, FORBIDDEN, Transitions, allowed
from lm.train.optimizers import decays

LABELS = ("O", "B-X", "I-X", "B-Y")
B, L, S = 5, 4, len(LABELS)
LENGTHS = [4, 3, 1, 0, 2]
MASK_BL = np.arange(L)[None] < np.array(LENGTHS)[:, None]


def draw(seed=0, constrained=False):
    """Emissions and the scores of `Transitions`, the latter as the scheme allows them."""
    rng = np.random.default_rng(seed)
    noise = lambda *shape: rng.normal(size=shape).astype(np.float32)
    emissions_BLS, transition_ST = 2 * noise(B, L, S), noise(S, S)
    scores = Transitions(noise(S), transition_ST, noise(S))
    if constrained:
        may = allowed(LABELS, "BIO")
        scores = jax.tree.map(lambda m, x: np.where(m, x, np.float32(FORBIDDEN)), may, scores)
    return emissions_BLS, scores


def all_paths(emissions_LS, scores, length):
    """Every path of this length and its score, in float64."""
    start_S, transition_ST, end_S = scores
    paths = list(itertools.product(range(S), repeat=length))
    of_paths = []
    for path in paths:
        score = float(start_S[path[0]]) + float(end_S[path[-1]])
        score += sum(float(emissions_LS[i, tag]) for i, tag in enumerate(path))
        score += sum(float(transition_ST[pair]) for pair in itertools.pairwise(path))
        of_paths.append(score)
    return paths, np.array(of_paths)


def log_sum(scores):
    return scores.max() + np.log(np.sum(np.exp(scores - scores.max())))


def pad(path):
    return [*path, *[0] * (L - len(path))]


@jax.jit  # All that there is to know in one program, for compilation is what tests wait for.
def outcome(emissions_BLS, tags_BL, scores, mask_BL):
    tags_best_BL, score_B = crf.viterbi(emissions_BLS, scores, mask_BL)
    likelihood = lambda x, scores: crf.log_likelihood(x, tags_BL, scores, mask_BL)
    total = lambda *args: (jnp.sum(likelihood(*args)), likelihood(*args))
    gradients, likelihood_B = jax.grad(total, (0, 1), has_aux=True)(emissions_BLS, scores)
    total_log_z = lambda x: jnp.sum(crf.log_partition(x, scores, mask_BL))
    return {
        "log_z_B": crf.log_partition(emissions_BLS, scores, mask_BL),
        "marginals_BLS": jax.grad(total_log_z)(emissions_BLS),
        "likelihood_B": likelihood_B,
        "gradients": (gradients[0], *gradients[1]),
        "best_BL": tags_best_BL,
        "best_score_B": score_B,
    }


@pytest.mark.parametrize("constrained", [False, True])
def test_everything_is_as_over_all_paths(constrained):
    for seed in range(3):
        emissions_BLS, scores = draw(seed, constrained)
        tags_BL = np.random.default_rng(seed).integers(0, S, (B, L))
        found = outcome(emissions_BLS, tags_BL, scores, MASK_BL)

        assert found["best_BL"].dtype == jnp.int32
        for b, length in enumerate(LENGTHS):
            if length:
                paths, of_paths = all_paths(emissions_BLS[b], scores, length)
                log_z = log_sum(of_paths)
                assert found["log_z_B"][b] == pytest.approx(log_z, rel=1e-5)
                likelihood = of_paths[paths.index(tuple(tags_BL[b, :length]))] - log_z
                assert found["likelihood_B"][b] == pytest.approx(likelihood, rel=1e-5, abs=1e-4)
                assert found["best_score_B"][b] == pytest.approx(of_paths.max(), rel=1e-5)
                assert found["best_BL"][b].tolist() == pad(paths[of_paths.argmax()])
                marginals_LS = np.zeros((L, S))
                for path, share in zip(paths, np.exp(of_paths - log_z), strict=True):
                    marginals_LS[range(length), path] += share
                np.testing.assert_allclose(found["marginals_BLS"][b], marginals_LS, atol=1e-5)


def test_the_likelihoods_of_all_paths_sum_to_one():
    emissions_BLS, scores = draw()
    length, total = LENGTHS[-1], 0.0
    for path in itertools.product(range(S), repeat=length):
        tags_BL = np.broadcast_to(pad(path), (B, L))
        total += np.exp(outcome(emissions_BLS, tags_BL, scores, MASK_BL)["likelihood_B"][-1])
    assert total == pytest.approx(1, rel=1e-5)


def test_gradients_are_those_of_finite_differences():
    tags_BL = np.random.default_rng(1).integers(0, S, (B, L))
    likelihood = lambda x_BLS, scores: crf.log_likelihood(x_BLS, tags_BL, scores, MASK_BL)
    check_grads(jax.jit(likelihood), draw(), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_padding_changes_nothing_whatever_stands_in_it():
    emissions_BLS, scores = draw()
    tags_BL = np.random.default_rng(1).integers(0, S, (B, L))
    padded_BLS = np.full((B, L + 3, S), 50, np.float32)
    padded_BLS[:, :L][MASK_BL] = emissions_BLS[MASK_BL]
    longer_BL = np.full((B, L + 3), -100)
    longer_BL[:, :L][MASK_BL] = tags_BL[MASK_BL]
    mask_BL = np.pad(MASK_BL, ((0, 0), (0, 3)))

    before = outcome(emissions_BLS, tags_BL, scores, MASK_BL)
    after = outcome(padded_BLS, longer_BL, scores, mask_BL)

    after["best_BL"], after["marginals_BLS"] = (
        after["best_BL"][:, :L],
        after["marginals_BLS"][:, :L],
    )
    after["gradients"] = after["gradients"][0][:, :L], *after["gradients"][1:]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), before, after)


def test_a_row_of_padding_scores_nothing():
    emissions_BLS, scores = draw()
    found = outcome(emissions_BLS, np.zeros((B, L), int), scores, np.zeros((B, L), bool))
    assert all(not np.any(x) for x in jax.tree.leaves(found))


def test_a_forbidden_gold_path_is_absurd_but_finite():
    emissions_BLS, scores = draw(constrained=True)
    tags_BL = np.full((B, L), LABELS.index("I-X"))
    found = outcome(emissions_BLS, tags_BL, scores, MASK_BL)

    wrong = np.array(LENGTHS) > 0
    assert np.isfinite(found["likelihood_B"]).all() and (found["likelihood_B"][wrong] < -1e29).all()
    for gradient in found["gradients"]:
        assert np.isfinite(gradient).all() and np.abs(gradient).max() <= sum(LENGTHS)


def test_the_best_path_never_breaks_the_scheme():
    rng = np.random.default_rng(0)
    labels = ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y")
    emissions_BLS = 1e4 * rng.normal(size=(64, 12, len(labels))).astype(np.float32)
    mask_BL = np.arange(12)[None] < rng.integers(1, 13, 64)[:, None]
    tagger, may = CRF(labels, "BIOES"), allowed(labels, "BIOES")
    transitions = tagger.apply(tagger.init(jax.random.key(0)))

    tags_BL, _ = jax.jit(crf.viterbi)(emissions_BLS, transitions, mask_BL)
    for tags_L, length in zip(np.asarray(tags_BL), mask_BL.sum(1), strict=True):
        tags = tags_L[:length]
        assert may.start_S[tags[0]] and may.end_S[tags[-1]]
        assert all(may.transition_ST[pair] for pair in itertools.pairwise(tags))


def test_what_bioes_allows():
    labels = ("O", "B-X", "I-X", "E-X", "S-X", "E-Y")
    may = allowed(labels, "BIOES")

    names = lambda mask: {label for label, yes in zip(labels, mask, strict=True) if yes}
    assert names(may.start_S) == {"O", "B-X", "S-X"}
    assert names(may.end_S) == {"O", "E-X", "S-X", "E-Y"}
    after = {label: names(row) for label, row in zip(labels, may.transition_ST, strict=True)}
    closed = {"O", "B-X", "S-X"}
    going_on = {"I-X", "E-X"}
    assert after == {
        "O": closed, "B-X": going_on, "I-X": going_on, "E-X": closed, "S-X": closed, "E-Y": closed,
    }  # fmt: skip


def test_what_bio_allows():
    may = allowed(LABELS, "BIO")  # O B-X I-X B-Y

    assert may.start_S.tolist() == [True, True, False, True]
    assert may.transition_ST.tolist() == [
        [True, True, False, True],
        [True, True, True, True],
        [True, True, True, True],
        [True, True, False, True],
    ]
    assert may.end_S.all()


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_a_label_of_no_scheme_is_named(scheme):
    with pytest.raises(UserError, match=f"'Q-X' is not of the scheme {scheme}"):
        allowed(["O", "Q-X"], scheme)


def test_the_module_scores_like_the_functions_and_is_not_decayed():
    emissions_BLS, _ = draw()
    tags_BL = np.zeros((B, L), int)
    tagger = CRF(LABELS)
    variables = tagger.init(jax.random.key(0))

    shapes = {name: x.shape for name, x in variables["params"].items()}
    assert shapes == {"transition_bias": (S, S), "start_bias": (S,), "end_bias": (S,)}
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables["params"])
    assert all(not decays(path) and x.dtype == np.float32 for path, x in leaves)
    # Without transitions, words are independent.
    log_probs_BLS = jax.nn.log_softmax(emissions_BLS)
    np.testing.assert_allclose(
        jax.jit(crf.log_likelihood)(emissions_BLS, tags_BL, tagger.apply(variables), MASK_BL),
        np.where(MASK_BL, log_probs_BLS[..., 0], 0).sum(1),
        atol=1e-5,
    )
    assert hash(tagger) == hash(CRF(LABELS))  # Transformations of modules need it.
