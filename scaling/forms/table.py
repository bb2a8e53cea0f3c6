"""The forms by the name of --form; some depend on which columns of the runs vary."""

from collections.abc import Callable

from scaling.fitting.runs import Runs
from scaling.forms import experts, over_training, precision, repeats
from scaling.forms.form import Form

FORMS: dict[str, Callable[[Runs], Form]] = {
    'over_training': lambda runs: over_training.FORM,
    'repeats': lambda runs: repeats.FORM,
    'experts': lambda runs: experts.FORM,
    'precision': precision.form_of,
}
