"""python -m bnlstm_deploy."""

from bnlstm_deploy.cli.entry import main

main()
