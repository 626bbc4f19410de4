"""Statistics of studies: false positives with few seeds, intervals and p-values that agree, effect sizes that are none."""

import math

import numpy as np
import pytest

from visurf.metrics.intervals import bootstrap_statistic, resampled_statistic
from visurf.metrics.ranking import roc_auc
from visurf.studies.statistics import compare, holm, of_prompts, of_resamples, over_seeds_and_prompts, paired


def answers(generator, seeds, prompts, deviation, mean=0.5):
    """Right or wrong, of models whose share of right answers differs from seed to seed."""
    share = np.clip(mean + deviation * generator.standard_normal((seeds, 1)), 0, 1)
    return (generator.random((seeds, prompts)) < share).astype(float)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("deviation", [0.0, 0.15])
def test_equal_methods_are_told_apart_no_more_often_than_promised(seeds, deviation):
    generator, repetitions, wrong, covered = np.random.default_rng(seeds), 1000, 0, 0
    for _ in range(repetitions):
        found = paired(*(answers(generator, seeds, 400, deviation) for _ in range(2)))
        outside = found.difference.low > 0 or found.difference.high < 0
        assert (found.p_value < 0.05) == outside
        wrong += outside
        covered += (one := over_seeds_and_prompts(answers(generator, seeds, 400, deviation))).low <= 0.5 <= one.high
    # 5 % and two standard errors of it.
    assert wrong / repetitions <= 0.064
    assert covered / repetitions >= 0.936


def test_what_prompts_have_in_common_for_all_seeds_counts():
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        easier = 0.4 * generator.standard_normal(60)
        found = paired(np.zeros((5, 60)), easier + 0.05 * generator.standard_normal((5, 60)))
        wrong += found.p_value < 0.05
    assert wrong / 1000 <= 0.064


def test_a_plain_difference_stands_among_many_rows():
    generator = np.random.default_rng(0)
    found = paired(answers(generator, 5, 400, 0.02), answers(generator, 5, 400, 0.02, mean=0.8))
    assert holm([found.p_value, *[0.5] * 299])[0] < 0.05
    # Five prompts say no more than their signs can, however equal they are; one says nothing.
    assert paired(np.zeros((1, 5)), np.ones((1, 5))).p_value == 2 / 2**5
    single = paired(np.zeros((3, 1)), np.ones((3, 1)))
    assert single.p_value == 1
    assert math.isnan(single.difference.low)
    assert paired(np.zeros((3, 9)), np.zeros((3, 9))).p_value == 1


def test_half_widths_by_hand():
    # Seeds 0.25 and 0.75: standard error 0.25, t of one degree of freedom 12.706. Prompts: 0.25, 0.75, 0.25, 0.75, standard
    # deviation 0.28868, of four 0.14434, t of three 3.18245.
    values = np.array([[0.0, 0.5, 0.0, 0.5], [0.5, 1.0, 0.5, 1.0]]) - 10
    found = over_seeds_and_prompts(values)
    assert found.high - found.value == pytest.approx(math.hypot(12.7062 * 0.25, 3.18245 * 0.14434), rel=1e-4)
    # Shares stay within 0 and 1.
    assert over_seeds_and_prompts(values + 10).low == 0
    with pytest.raises(ValueError, match="shape"):
        over_seeds_and_prompts(values[0])


def test_no_spread_is_no_effect_size():
    # 0.7 less 0.6 is not the same number as 0.4 less 0.3.
    first = np.tile([[0.3], [0.6], [0.1]], (1, 40))
    found = paired(first, first + 0.1)
    assert np.isnan([found.over_seeds, found.over_prompts]).all()
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low == found.difference.value
    rounding = paired(first, first * 3 / 3 + 1e-17)
    assert (rounding.difference.value, rounding.p_value) == (0.0, 1.0)


def test_the_effect_size_of_a_ratio_knows_what_it_is_divided_by():
    generator = np.random.default_rng(0)
    below = generator.integers(1, 1000, size=(1, 200)).astype(float)
    first = of_prompts(0.5 * below, below)
    # Masks of very different sizes, each half right before and, give or take a little, 0.6 right after.
    second = of_prompts((0.6 + 0.01 * generator.standard_normal((1, 200))) * below, below)
    found = compare(first, second)
    assert found.difference.value == pytest.approx(0.1, abs=0.01)
    assert found.over_prompts > 5
    # The same where everything is divided by 1.
    plain = paired(np.full((1, 200), 0.5), 0.6 + 0.01 * generator.standard_normal((1, 200)))
    assert plain.over_prompts == pytest.approx(10, rel=0.15)
    # Linear to first order: as the bootstrap of the ratio.
    ratio = over_seeds_and_prompts(generator.random((1, 200)) * below, below)
    noisy = generator.random(200) * below[0]
    known = bootstrap_statistic(lambda i: float(noisy[i].sum() / below[0][i].sum()), 200)
    assert ratio.high - ratio.low == pytest.approx(known.high - known.low, rel=0.2)


def test_what_is_no_mean_is_resampled_alike_on_both_sides():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    noise = generator.standard_normal(300)

    def curve(scores):
        return lambda chosen: roc_auc(list(labels[chosen]), list(scores[chosen]))

    scores = [labels * gain + noise for gain in (0.5, 0.6)]
    whole = [np.array([curve(s)(np.arange(300))]) for s in scores]
    drawn = [resampled_statistic(curve(s), 300, resamples=400)[None] for s in scores]
    known = bootstrap_statistic(curve(scores[0]), 300, resamples=400)
    one, two = (of_resamples(w, d, 300) for w, d in zip(whole, drawn, strict=True))
    assert one.interval().low == pytest.approx(known.low, abs=0.01)
    assert one.interval().high == pytest.approx(known.high, abs=0.01)
    # The noise is the same, so the small difference is plain, though the intervals overlap.
    found = compare(one, two)
    assert found.p_value < 0.001
    assert one.interval().high > two.interval().low
    assert math.isnan(found.over_prompts)
    with pytest.raises(ValueError, match="same seeds and prompts"):
        compare(one, of_prompts(noise[None]))
    with pytest.raises(ValueError, match="on resampled prompts"):
        of_resamples(whole[0], np.zeros((2, 400)), 300)
