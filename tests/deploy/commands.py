"""`bnlstm-deploy deploy`, in this process."""

from typer.testing import CliRunner

from bnlstm_deploy.cli.main import app


def invoke(*arguments):
    """Run the command; an error that `main` would print is raised."""
    result = CliRunner().invoke(app, ["deploy", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def deploy(model, repository, *options, name=None):
    """Write a model into a repository for Triton, and return its folder."""
    result = invoke("triton", model, "-o", repository, "--name", name or model.stem, *options)
    assert result.exit_code == 0, result.output
    return repository / (name or model.stem)
