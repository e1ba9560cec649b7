"""Tokens and bodies, at the door of an application that says what it got."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from bnlstm_deploy.serve.faults import UnauthorizedError
from bnlstm_deploy.serve.guard import Guard, check_token
from bnlstm_deploy.serve.limits import Limits
from bnlstm_deploy.serve.settings import Settings
from tests.serve.local import Client


@pytest.fixture
def refused():
    """The errors that the guard answered."""
    return []


@pytest.fixture
def guarded(refused):
    """Make a client of an application behind a guard."""

    def make(token=None, hosts=None, **limits):
        async def read(request: Request):
            return JSONResponse({})

        async def size(request: Request):
            return JSONResponse({"size": len(await request.body())})

        routes = [
            Route("/open", read),
            Route("/closed", read),
            Route("/size", size, methods=["POST"]),
        ]
        settings = Settings(Limits(**limits), token, hosts)
        return Guard(Router(routes), settings, ["/open"], refused.append)

    return make


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", "Bearer tokeN", "Bearer token2", "Bearer oken", "token"),
        *("Basic token", "Bearer Bearer token", "Bearer tökén"),
    ],
)
def test_another_token_is_refused(authorization):
    with pytest.raises(UnauthorizedError, match="Authorization: Bearer TOKEN"):
        check_token(authorization, "token")


def test_the_token_opens_and_no_token_is_needed_where_there_is_none():
    check_token("Bearer token", "token")
    check_token("bearer  token ", "token")
    check_token(None, None)
    check_token("Bearer other", None)


def test_without_the_token_only_open_paths_answer(guarded, refused):
    with Client(guarded("token")) as client:
        assert client.get("/open").status_code == 200
        for path in ("/closed", "/open/", "/other", "//open"):
            answered = client.get(path)
            assert answered.status_code == 401
            assert answered.headers["www-authenticate"] == "Bearer"
            assert [*answered.json()] == ["error"]
        authorized = {"Authorization": "Bearer token"}
        assert client.get("/closed", headers=authorized).status_code == 200
        assert client.get("/closed", headers={"Authorization": b"Bearer \xff"}).status_code == 401
    assert all(isinstance(error, UnauthorizedError) for error in refused)
    assert len(refused) == 5


def test_a_large_body_is_refused_by_its_header_or_as_it_comes(guarded, refused):
    async def chunks(size):
        for _ in range(size):
            yield b"x"

    with Client(guarded(max_body=10)) as client:
        assert client.post("/size", content=b"x" * 10).json() == {"size": 10}
        assert client.post("/size", content=chunks(10)).json() == {"size": 10}
        answered = client.post("/size", content=b"x" * 11)
        assert answered.status_code == 413
        assert "max_body is 10" in answered.json()["error"]
        assert len(refused) == 1
        assert client.post("/size", content=chunks(11)).status_code == 413


def test_a_body_that_does_not_come_is_refused(guarded):
    async def half():
        yield b"x"
        await asyncio.sleep(60)
        yield b"x"

    with Client(guarded(timeout=0.05)) as client:
        answered = client.post("/size", content=half())
    assert answered.status_code == 408
    assert "0.05 s" in answered.json()["error"]
