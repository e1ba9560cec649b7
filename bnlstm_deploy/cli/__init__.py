"""The command line, `bnlstm-deploy`: one module a command."""
