"""Who trains and who is validated on, of a single network and of each member of an ensemble."""

import types

import pytest

from jaxseg.cli import splitting
from jaxseg.config import base_config
from jaxseg.typing import UserError


def cases(count, subjects=None):
    names = [f"case_{number}" for number in range(count)]
    return [types.SimpleNamespace(name=name, subject=own) for name, own in zip(names, subjects or [None] * count)]


def member(kind, *, number=0, **options):
    config = base_config()
    config.ensemble.kind, config.ensemble.member = kind, number
    config.ensemble.update(options)
    return config


def test_boosting_sets_the_same_share_of_the_subjects_aside_for_every_member():
    of_twos = cases(8, [f"subject_{number // 2}" for number in range(8)])
    parts = [splitting.member_split(member("boosting", number=n, validation=0.25), of_twos, []) for n in (0, 1)]
    assert parts[0] == parts[1]
    training, validation = parts[0]
    assert len(training) == 6 and len({case.subject for case in validation}) == 1 and len(validation) == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (member("boosting", validation=0.2), r"ensemble.validation=0.2 takes one of 5 training subjects.*are 4; raise"),
        (member("stacking", folds=5), r"ensemble.folds=5 takes one of 5 training subjects, but there are 4; lower it"),
    ],
)
def test_too_few_subjects_are_told_in_the_words_of_the_option(config, message):
    with pytest.raises(UserError, match=message):
        splitting.member_split(config, cases(4), [])
