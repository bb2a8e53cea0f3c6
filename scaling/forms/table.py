"""The forms by the name of --form."""

from scaling.forms import over_training, repeats
from scaling.forms.form import Form

FORMS: dict[str, Form] = {
    'over_training': over_training.FORM,
    'repeats': repeats.FORM,
}
