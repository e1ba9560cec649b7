"""The check as most tests run it: in this process, and without a search."""

from functools import partial

from bnlstm_deploy.verify import verify

check = partial(verify, isolated=False, search_seconds=0)
