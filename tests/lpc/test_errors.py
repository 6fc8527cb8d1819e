import pytest

from lpc.errors import MissingExtra, missing_extra, unknown_name


def test_a_missing_extra_says_what_to_install_to_importers_and_on_the_command_line():
    error = missing_extra("probe attacks", ["foolbox", "adv_lib"], "attacks")
    assert isinstance(error, MissingExtra)
    assert str(error) == (
        "probe attacks needs foolbox, adv_lib, not installed here; it comes with the extra 'attacks': "
        "pip install '.[attacks]'"
    )
    for kind in (ImportError, ValueError):
        with pytest.raises(kind, match="extra 'attacks'"):
            raise error


def test_an_unknown_name_is_answered_with_the_nearest():
    assert str(unknown_name("loss", "sqared", ["squared", "absolute"])) == (
        "unknown loss 'sqared'. Did you mean squared? Known: squared, absolute."
    )
