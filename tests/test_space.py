"""The text of a search: what is read, what each draw becomes, and every mistake told at once."""

import pytest

from jaxseg import config as configs
from jaxseg import space, validation
from jaxseg.space import Choice, Range
from jaxseg.typing import UserError

SETTINGS = configs.flat(configs.base_config().to_dict())


def test_every_kind_is_read():
    text = """
    optim.lr = log(1e-4, 1e-2); optim.ema=uniform(0, 0.9, step=0.3)
    data.batch_size = int(2, 8, step=2)
    augment = choice(none, mirror(axes=(1,))|gamma, 'light')
    model.features = choice((8, 16), (16, 32))
    model.deep_supervision = choice(True, False); optim.warmup_steps = log(1, 100); model.dropout=uniform(0,0.5)
    """
    assert space.parse(text, SETTINGS) == {
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "optim.ema": Range(0.0, 0.9, 0.3),
        "data.batch_size": Range(2.0, 8.0, 2.0, whole=True),
        "augment": Choice(("none", "mirror(axes=(1,))|gamma", "light")),
        "model.features": Choice(((8, 16), (16, 32))),
        "model.deep_supervision": Choice((True, False)),
        "optim.warmup_steps": Range(1.0, 100.0, log=True, whole=True),
        "model.dropout": Range(0.0, 0.5),  # a field of the network that the config does not list
    }
    assert space.parse("", SETTINGS) == {}


def test_draws_become_values_of_the_config():
    assert Range(1e-4, 1e-2, log=True).value(0.00316227766) == 0.003162
    assert Range(0.0, 0.12345).value(0.123449) == 0.1234 and Range(0.0, 0.12346).value(0.12346) == 0.12346
    assert Range(0.0, 0.9, 0.3).value(0.30000000000000004) == 0.3
    whole = Range(2.0, 8.0, 2.0, whole=True).value(4)
    assert whole == 4 and type(whole) is int
    choice = Choice(((8, 16), "none", True))
    assert choice.texts() == ("(8, 16)", "none", "True")
    assert [choice.value(text) for text in choice.texts()] == [(8, 16), "none", True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lrr=log(1e-4,1e-2)", "no field 'optim.lrr'; did you mean optim.lr or"),
        ("zzz=choice(1)", "no field 'zzz'; write entries such as"),
        ("data.spacing=choice(keep,median)", "data.spacing may not be searched, since all trials share prepared data"),
        ("predict.overlap=uniform(0,0.5)", "predict.overlap may not be searched"),
        ("train.total_steps=int(1,5)", "train.total_steps may not be searched"),
        ("tune.trials=int(1,5)", "tune.trials may not be searched"),
        ("optim.lr=log(1e-2,1e-4)", "the low end of optim.lr should be below the high end, got 0.01 and 0.0001"),
        ("optim.lr=log(0,1)", "starts above 0, got 0 for optim.lr"),
        ("optim.lr=normal(0,1)", r"optim.lr should be one of uniform\(low, high\), .* got 'normal\(0,1\)'"),
        ("optim.lr=log(1e-4", "optim.lr should be one of"),
        ("optim.lr=uniform(1)", r"should read uniform\(low, high, step=s\) with numbers"),
        ("optim.lr=log(1,2,step=1)", r"should read log\(low, high\) with numbers"),
        ("optim.lr=uniform(a,b)", "with numbers"),
        ("optim.ema=uniform(0,0.5,step=2)", "the step of optim.ema should be positive and fit"),
        ("data.batch_size=uniform(1,4)", r"data.batch_size is 2 in the config; use int\(...\) in place of uniform"),
        ("augment=uniform(0,1)", r"augment is 'nnunet' in the config; use choice\(...\)"),
        ("data.batch_size=choice(2,four)", "data.batch_size takes values of type int such as 2, got 'four'"),
        ("data.patch_size=choice(8)", "type tuple"),
        ("optim.lr=choice(True)", "type float"),
        ("augment=choice()", "augment has nothing to choose from"),
        ("augment=choice(none,none)", "augment names a choice twice"),
        ("augment=choice(none);augment=choice(light)", "names augment twice"),
        ("augment", r"'augment' should read field = domain, such as optim.lr=log"),
    ],
)
def test_mistakes_are_told(text, message):
    with pytest.raises(UserError, match=message):
        space.parse(text, SETTINGS)


def test_all_mistakes_are_told_with_those_of_the_config():
    config = configs.base_config()
    config.data.name, config.train.total_steps, config.train.eval_steps = "msd", 10, 5
    config.tune.space = "optim.lr=log(1,0.1); augmnet=choice(none)"
    config.tune.sampler, config.tune.pruner, config.tune.first_rung, config.tune.reduction = "cma", "median", 4, 1
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    for text in ("low end of optim.lr", "did you mean augment?", "tune.sampler must be tpe or random, got 'cma'",
                 "tune.pruner must be halving or none", "tune.first_rung = 4 comes before the first score",
                 "tune.reduction must be at least 2"):  # fmt: skip
        assert text in str(caught.value)
