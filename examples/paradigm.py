"""A paradigm of one's own: the label teaches a prompt the more, the less of it the rollouts can do. Used from a recipe:

paradigm: examples/paradigm.py:TUTOR
mixing: {supervision: 0.5}
"""

from visurf.mixing import Coefficients, Moment, Outcome
from visurf.paradigms import Paradigm


def tutor(outcome: Outcome, moment: Moment) -> Coefficients:
    """Rollouts keep their advantages; the label is supervised by what the best rollout lacks.

    Args:
        outcome: Of one group: advantages (rollouts first) and each rollout's accuracy as a fraction of the label's.
        moment: Step, steps of the stage, and the paradigm's hyperparameters.
    """
    lacking = 1 - min(1.0, max(outcome.reached))
    label = moment.mixing["supervision"] * lacking
    rollouts = len(outcome.reached)
    return Coefficients((*outcome.advantages[:rollouts], 0.0), (*[0.0] * rollouts, label))


TUTOR = Paradigm("tutor", label="beside", blend=tutor, mixing={"supervision": 1.0}, source="examples/paradigm.py")
