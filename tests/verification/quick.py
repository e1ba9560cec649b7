"""The check as most tests run it: in this process, of the function body, without a search."""

from functools import partial

from bnlstm_deploy.verification import verify

check = partial(verify, isolated=False, search_seconds=0, native=False)
