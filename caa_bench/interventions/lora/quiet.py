"""Keep the training libraries' notes to one another off the user's screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_training() -> Iterator[None]:
    """Keep the libraries' notes to one another off the user's screen: deprecations, token alignment, kernels."""
    import logging as standard
    import warnings

    from transformers.utils import logging

    verbosity, bitsandbytes = logging.get_verbosity(), standard.getLogger("bitsandbytes")
    level = bitsandbytes.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        bitsandbytes.setLevel(standard.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            bitsandbytes.setLevel(level)
