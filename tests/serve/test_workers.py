"""Several processes behind one port."""

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from bnlstm_deploy.client import Client
from bnlstm_deploy.errors import SequenceError
from bnlstm_deploy.runtime import Session
from bnlstm_deploy.serve.peers import owner
from tests.serve.servers import export_small, running

CLOSE = 1e-5


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An exported model."""
    return export_small(tmp_path_factory.mktemp("workers") / "small.onnx")


@pytest.fixture(scope="module")
def session(model_path):
    """The model without a server."""
    return Session(model_path, intra_op_num_threads=1)


@pytest.fixture
def server(model_path):
    """Three workers."""
    with running(model_path, "--workers", "3") as server:
        yield server


def data(seed, time=12):
    return np.random.default_rng(seed).standard_normal((1, time, 3)).astype(np.float32)


def chunks_of(client, module, x, sequence_id, chunks=4):
    """Send a sequence in chunks as any client of the protocol does; return its output."""
    parts, size = [], x.shape[1] // chunks
    for number in range(chunks):
        tensor = module.InferInput("input", (1, size, 3), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(x[:, number * size :][:, :size]))
        ends = {"sequence_start": number == 0, "sequence_end": number == chunks - 1}
        result = client.infer("small", [tensor], sequence_id=sequence_id, **ends)
        parts.append(result.as_numpy("output"))
    return np.concatenate(parts, 1)


def test_sequences_are_right_whichever_worker_gets_the_chunks(server, session):
    for module, address in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):

        def sequence(seed, module=module, address=address):
            # Each chunk comes by a connection of its own, so to any of the workers.
            class Fresh:
                def infer(self, *arguments, **options):
                    with module.InferenceServerClient(address) as client:
                        return client.infer(*arguments, **options)

            output = chunks_of(Fresh(), module, data(seed), f"s{seed}")
            return np.abs(output - session(data(seed))[0]).max()

        with ThreadPoolExecutor(4) as threads:
            assert max(threads.map(sequence, range(24))) < CLOSE
    metrics = server.metrics()
    labels = '{model="small",version="1"}'
    assert metrics[f"bnlstm_requests_total{labels}"] == 2 * 24 * 4
    assert metrics[f"bnlstm_inferences_total{labels}"] == 2 * 24 * 4
    assert metrics[f"bnlstm_sequences{labels}"] == 0
    assert {owner(f"s{seed}", 3) for seed in range(24)} == {0, 1, 2}


def test_a_worker_that_dies_is_replaced_and_no_answer_is_wrong(server, session):
    end, worst = threading.Event(), []

    def load(seed):
        with Client(f"http://{server.http}", "small", timeout=120) as client:
            number = 0
            while not end.is_set() or number < 5:
                x = data(1000 * seed + number)
                worst.append(np.abs(client.run(x)[0] - session(x)[0]).max())
                number += 1

    with ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(load, seed) for seed in range(4)]
        with Client(f"http://{server.http}", "small", timeout=120) as client:
            held = [client.sequence() for _ in range(12)]
            for number, sequence in enumerate(held):
                sequence(data(number)[:, :4])
            before = server.wait_for("ready")["workers"]
            os.kill(before[0], signal.SIGKILL)
            assert server.wait_for("worker died", worker=0)["exit_code"] == -signal.SIGKILL
            server.wait_for_count("ready", 2)
            lost = 0
            for number, sequence in enumerate(held):
                try:
                    output = sequence(data(number)[:, 4:])
                except SequenceError:
                    lost += 1
                else:
                    assert np.abs(output - session(data(number))[0][:, 4:]).max() < CLOSE
            assert lost == sum(owner(sequence.id, 3) == 0 for sequence in held)
        end.set()
        for one in loads:
            one.result()
    assert max(worst) < CLOSE


def test_sighup_opens_the_files_anew_and_sequences_go_on(tmp_path, model_path, session):
    path = tmp_path / "small.onnx"
    shutil.copy(model_path, path)
    other = export_small(tmp_path / "other.onnx", seed=2)
    with running(path, "--workers", "2") as server:
        end, outputs = threading.Event(), []

        def load():
            with Client(f"http://{server.http}", "small", retries=0) as client:
                while not end.is_set():
                    outputs.append(client.run(data(0))[0])

        with (
            ThreadPoolExecutor(2) as threads,
            Client(f"http://{server.http}", "small") as client,
        ):
            loads = [threads.submit(load) for _ in range(2)]
            held = [client.sequence() for _ in range(6)]
            for sequence in held:
                sequence(data(1)[:, :4])
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_count("reloaded", 2)
            for sequence in held:  # the weights are the same
                assert np.abs(sequence(data(1)[:, 4:8]) - session(data(1))[0][:, 4:8]).max() < CLOSE
            other.replace(path)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_count("reloaded", 4)
            end.set()
            for one in loads:
                one.result()  # none failed
            for sequence in held:  # they are others now
                with pytest.raises(SequenceError, match="there is no sequence"):
                    sequence(data(1)[:, 8:])
            new = Session(path, intra_op_num_threads=1)(data(0))[0]
            assert np.abs(client.run(data(0))[0] - new).max() < CLOSE
        old = session(data(0))[0]
        errors = [min(np.abs(output - right).max() for right in (old, new)) for output in outputs]
        assert max(errors) < CLOSE


def test_a_file_that_is_wrong_then_is_not_taken(tmp_path, model_path, session):
    path = tmp_path / "small.onnx"
    shutil.copy(model_path, path)
    with running(path, "--workers", "2") as server:
        path.write_bytes(b"no")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_count("not reloaded", 2)
        with Client(f"http://{server.http}", "small") as client:
            assert np.abs(client.run(data(0))[0] - session(data(0))[0]).max() < CLOSE


def test_sigterm_answers_all_and_ends_all(server):
    workers = server.wait_for("ready")["workers"]
    with (
        ThreadPoolExecutor(8) as threads,
        Client(f"http://{server.http}", "small", retries=0) as client,
    ):
        answers = [threads.submit(client.run, data(seed, 2000)) for seed in range(32)]
        answers[0].result()
        server.stop()
        assert server.process.wait(60) == 0
        for one in answers:
            one.exception()  # answered or refused
    assert server.wait_for("stopped")["answered_all"] is True
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_workers_end_with_what_started_them(server):
    workers = server.wait_for("ready")["workers"]
    server.process.kill()
    for worker in workers:
        while True:
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                break
            threading.Event().wait(0.05)
