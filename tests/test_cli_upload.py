"""`nunu-async upload`: what is sent, what is printed, and the exit code."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from cli_tools import PATIENCE, bodies, environment, make, names, run, together

from nunu_async.cli.patterns import expand
from nunu_async.errors import SourceError
from nunu_async.sandbox import Fault, Sandbox


async def test_one_file_goes_up_and_only_what_was_said_is_asked_for(tmp_path: Path) -> None:
    (file,) = make(tmp_path, "game.apk", size=5000)
    async with Sandbox() as box:
        ran = await run(
            "upload", "game.apk", "--name", "Nightly", env=box.environment, cwd=tmp_path
        )
        assert (ran.code, ran.err) == (0, "")
        (build_id,) = box.uploads
        assert ran.out.count("\n") == 1
        assert "game.apk" in ran.out
        assert build_id in ran.out
        assert box.read_object(build_id) == file.read_bytes()
        assert bodies(box) == [
            {
                "name": "Nightly",
                "file_name": "game.apk",
                "file_size": 5000,
                "platform": "android",
                "multipart": False,
                "project_id": box.project_id,
            }
        ]
        keys = {seen.origin: seen.headers.get("X-Api-Key") for seen in box.journal}
        assert keys == {"api": box.api_key, "storage": None}


async def test_a_limit_on_bytes_a_second_counts_for_the_time_that_is_asked_for(
    tmp_path: Path,
) -> None:
    (file,) = make(tmp_path, "game.apk", size=1)
    os.truncate(file, 70 * 60 * 512 * 1024 + 1)  # for 70 minutes, and all of it a hole
    said = ["upload", "game.apk", "-n", "N", "--max-bandwidth", "512k", "--concurrency", "1"]
    async with Sandbox(faults=[Fault(on="get_upload_parts", status=400)]) as box:
        ran = await run(*said, env=box.environment, cwd=tmp_path)
        assert ran.code == 1
        assert [body["upload_timeout"] for body in bodies(box)] == [71]


async def test_every_option_reaches_the_server(tmp_path: Path) -> None:
    (file,) = make(tmp_path, "game.zip", size=2500)
    said = ["upload", "game.zip", "-n", "Nightly", "--platform", "windows", "-d"]
    said += ["a build, \u00fc and all", "--tags", "nightly, main", "--tags", "x,,"]
    said += ["--auto-delete", "--deletion-policy", "oldest", "--upload-timeout", "1440"]
    said += ["--concurrency", "2", "--multipart", "--verify", "--json"]
    async with Sandbox(part_size=1000) as box:
        ran = await run(*said, env=box.environment, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        assert bodies(box) == [
            {
                "name": "Nightly",
                "file_name": "game.zip",
                "file_size": 2500,
                "platform": "windows",
                "description": "a build, \u00fc and all",
                "tags": ["nightly", "main", "x"],
                "auto_delete": True,
                "deletion_policy": "oldest",
                "upload_timeout": 1440,
                "multipart": True,
                "project_id": box.project_id,
            }
        ]
        ((build_id, upload),) = box.uploads.items()
        (build,) = ran.report["builds"]
        assert build.pop("seconds") > 0
        assert build == {
            "file": "game.zip",
            "build_id": build_id,
            "object_key": upload.object_key,
            "upload_type": "multipart",
            "size": 2500,
            "parts": 3,
            "verified": 3,
            "possible_orphans": 0,
        }
        assert ran.report["failed"] == []
        assert box.read_object(build_id) == file.read_bytes()
        assert box.journal.peak("storage") <= 2


async def test_verified_is_reported_and_an_altered_part_is_sent_again(
    tmp_path: Path,
) -> None:
    (file,) = make(tmp_path, "game.apk", size=2500)
    said = ["upload", "game.apk", "-n", "N", "--multipart"]
    fault = Fault(on="put_part", part=2, do="corrupt")
    async with Sandbox(part_size=1000, faults=[fault]) as box:
        ran = await run(*said, "--verify", env=box.environment, cwd=tmp_path)
        assert ran.code == 0
        assert "3 parts, 3 verified, " in ran.out
        ran.tells("part 2: attempt 1 failed", "stored other bytes than were sent")
        assert [box.read_object(build_id) for build_id in box.uploads] == [file.read_bytes()]
        ran = await run(*said, env=box.environment, cwd=tmp_path)
        assert "verified" not in ran.out
        ran = await run(*said, "--json", env=box.environment, cwd=tmp_path)
        assert ran.report["builds"][0]["verified"] is None


async def test_single_part_and_the_other_spellings(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    environ = {"NUNU_API_KEY": "", "NUNU_BASE_URL": ""}
    async with Sandbox(multipart_from=1) as box:
        environ["NUNU_API_TOKEN"] = box.api_key + "\n"
        environ["NUNU_API_URL"] = box.base_url.removesuffix("/api/v1")
        said = [
            "upload",
            "game.apk",
            "--name=N",
            "--single-part",
            "--auto-delete",
            "--deletion-policy",
            "least-recent",
        ]
        ran = await run(*said, "--upload-timeout", "1", env=environ, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        (body,) = bodies(box)
        assert body["multipart"] is False
        assert body["deletion_policy"] == "least_recent"
        assert body["upload_timeout"] == 1
        assert "project_id" not in body
        assert not box.journal.of("get_upload_parts")


async def test_several_files_are_named_after_themselves_and_each_is_sent_once(
    tmp_path: Path,
) -> None:
    make(tmp_path, "b.apk", "a [1].apk", "a 1.apk", "deep/down/c.ipa", "deep/d.ipa", "deep/no.txt")
    (tmp_path / "deep" / "folder.ipa").mkdir()
    said = ["b.apk", "./b.apk", str(tmp_path / "b.apk"), "a [1].apk", "deep/**/*.ipa", "[b].apk"]
    async with Sandbox() as box:
        ran = await run("upload", *said, "-n", "N", "--json", env=box.environment, cwd=tmp_path)
        assert (ran.code, ran.err) == (0, "")
        files = [build["file"] for build in ran.report["builds"]]
        assert files == ["b.apk", "a [1].apk", "deep/d.ipa", "deep/down/c.ipa"]
        expected = ["N - a [1].apk", "N - b.apk", "N - c.ipa", "N - d.ipa"]
        assert names(box) == expected
        for build in ran.report["builds"]:
            assert box.read_object(build["build_id"]) == (tmp_path / build["file"]).read_bytes()
        # One file that a pattern found is one file: it keeps the name as it is.
        ran = await run("upload", "[b].apk", "-n", "N", env=box.environment, cwd=tmp_path)
        assert ran.code == 0
        assert names(box) == ["N", *expected]


async def test_some_fail_and_the_others_go_up(tmp_path: Path) -> None:
    files = [path.name for path in make(tmp_path, "a.apk", "b.apk", "c.apk")]
    said = ["upload", *files, "--name", "N", "--concurrency", "1"]
    # One at a time, so the second PUT is that of the second file; 400 is not tried again.
    refused = Fault(on="put_part", first=2, status=400)
    async with Sandbox(faults=[refused]) as with_json, Sandbox(faults=[refused]) as silent:
        as_json, as_text = await together(
            run(*said, "--json", env=with_json.environment, cwd=tmp_path),
            run(*said, env=silent.environment, cwd=tmp_path),
        )
        assert as_json.code == as_text.code == 1
        assert [build["file"] for build in as_json.report["builds"]] == ["a.apk", "c.apk"]
        (failure,) = as_json.report["failed"]
        assert (failure["file"], failure["error"]) == ("b.apk", "UploadError")
        assert "cancelled on the server" in failure["message"]
        assert as_text.out.count("\n") == 2
        assert "b.apk" not in as_text.out
        as_text.tells("b.apk", "400")
        for box in (with_json, silent):
            states = [upload.state for upload in box.uploads.values()]
            assert states == ["completed", "cancelled", "completed"]


async def test_a_file_that_cannot_go_up_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    make(tmp_path, "good.apk", "game.zip", "Game.app")
    (tmp_path / "empty.apk").touch()
    (tmp_path / "folder.apk").mkdir()
    unreadable = ["missing.apk", "empty.apk", "folder.apk"]
    words = ["No such file", "is empty", "is a directory", "ios-simulator"]
    if sys.platform != "win32":  # has none
        os.mkfifo(tmp_path / "pipe.apk")
        unreadable.append("pipe.apk")
        words.append("is a pipe")
    bad = [*unreadable, "game.zip", "Game.app"]
    said = ["upload", "good.apk", *bad, "--name", "N"]
    async with Sandbox() as box:
        as_json, as_text = await together(
            run(*said, "--json", env=box.environment, cwd=tmp_path),
            run(*said, env=box.environment, cwd=tmp_path),
        )
        assert as_json.code == as_text.code == 2
        assert as_json.report["builds"] == []
        # Every bad one is named at once; the good one is listed, and not blamed.
        failures = {failure["file"]: failure for failure in as_json.report["failed"]}
        assert list(failures) == ["good.apk", *bad]
        assert failures["good.apk"]["message"] == "not sent, because others cannot be"
        kinds = ["SourceError"] * len(unreadable) + ["InputError"] * 2
        assert [failures[file]["error"] for file in bad] == kinds
        assert as_text.out == ""
        assert len(as_text.err.splitlines()) == len(bad)
        for ran in ("".join(failures[file]["message"] for file in bad), as_text.err):
            assert [word for word in words if word not in ran] == []
        assert len(box.journal) == 0


async def test_a_pattern_without_a_file_stops_everything(tmp_path: Path) -> None:
    make(tmp_path, "good.apk")
    said = ["upload", "good.apk", "out/*.ipa", "--name", "N"]
    async with Sandbox() as box:
        as_json, as_text = await together(
            run(*said, "--json", env=box.environment, cwd=tmp_path),
            run(*said, env=box.environment, cwd=tmp_path),
        )
        assert as_json.code == as_text.code == 2
        assert as_json.report["builds"] == []
        # As with a missing file: the good one is listed, and not blamed.
        messages = {failure["file"]: failure["message"] for failure in as_json.report["failed"]}
        assert list(messages) == ["good.apk", "out/*.ipa"]
        assert "others" in messages["good.apk"]
        assert "no file matches" in messages["out/*.ipa"]
        assert as_text.out == ""
        as_text.tells("out/*.ipa", "no file matches")
        assert len(box.journal) == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("upload game.apk", "--name"),
        ("upload --name N", "FILE"),
        ("upload game.apk --name N --platform amiga", "amiga"),
        ("upload game.apk --name N --upload-timeout 0", "1 to 1440"),
        ("upload game.apk --name N --upload-timeout 1441", "1 to 1440"),
        ("upload game.apk --name N --upload-timeout soon", "1 to 1440"),
        ("upload game.apk --name N --concurrency 0", "--concurrency"),
        ("upload game.apk --name N --concurrency 1001", "1 to 1000"),
        ("upload game.apk --name N --max-bandwidth 20", "1024 bytes a second or more"),
        ("upload game.apk --name N --max-bandwidth 20X", "--max-bandwidth"),
        ("upload game.apk --name N --max-bandwidth nan", "--max-bandwidth"),
        ("uploads resume --max-bandwidth M", "--max-bandwidth"),
        ("upload game.apk --name N --deletion-policy newest", "newest"),
        ("upload game.apk --name N --multipart --single-part", "not allowed with"),
        ("upload game.apk --name N --api-key K", "--api-key"),
        ("download", "download"),
        ("", "COMMAND"),
    ],
)
def test_usage_errors(said: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from nunu_async.cli import main  # noqa: PLC0415 - one process for all of these

    with pytest.raises(SystemExit) as ended:
        main(said.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.splitlines()[-1]


async def test_usage_errors_in_a_process_and_help(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox() as box:
        usage, limits, helped = await together(
            run("upload", "game.apk", env=box.environment, cwd=tmp_path),
            run("upload", "game.apk", "-n", "n" * 256, env=box.environment, cwd=tmp_path),
            run("upload", "--help", env={"COLUMNS": "80"}),
        )
        assert (usage.code, usage.out) == (2, "")
        usage.tells("--name")
        assert (limits.code, limits.out) == (2, "")
        limits.tells("game.apk", "name", "255")
        assert (helped.code, helped.err) == (0, "")
        for words in ("--upload-timeout", "NUNU_API_KEY", "NUNU_BASE_URL", "exit codes", "130"):
            assert words in helped.out
        assert max(map(len, helped.out.splitlines())) <= 82
        assert len(box.journal) == 0


async def test_configuration_that_cannot_work_exits_2(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    said = ["upload", "game.apk", "--name", "N"]
    async with Sandbox() as box:
        bare = {"NUNU_BASE_URL": box.base_url}
        no_key, as_json, address, broken = await together(
            run(*said, env=bare, cwd=tmp_path),
            run(*said, "--json", env=bare, cwd=tmp_path),
            run(*said, env=box.environment | {"NUNU_BASE_URL": "ftp://host"}, cwd=tmp_path),
            run(*said, env=box.environment | {"NUNU_API_KEY": "half a-secret"}, cwd=tmp_path),
        )
        assert [ran.code for ran in (no_key, as_json, address, broken)] == [2] * 4
        assert no_key.out == address.out == broken.out == ""
        no_key.tells("NUNU_API_KEY", "NUNU_API_TOKEN")
        assert as_json.report["builds"] == []
        (failure,) = as_json.report["failed"]
        assert (failure["file"], failure["error"]) == ("game.apk", "ConfigError")
        address.tells("http")
        broken.tells("API key")
        assert "a-secret" not in broken.err
        assert len(box.journal) == 0


async def test_a_wrong_key_exits_1_with_a_sentence(tmp_path: Path) -> None:
    make(tmp_path, "game.apk", "more.apk")
    async with Sandbox() as box:
        wrong = box.environment | {"NUNU_API_KEY": "nunu_wrong_key_0123456789"}
        one, several = await together(
            run("upload", "game.apk", "--name", "N", env=wrong, cwd=tmp_path),
            run("upload", "*.apk", "--name", "N", "--json", env=wrong, cwd=tmp_path),
        )
        assert (one.code, one.out) == (1, "")
        one.tells("game.apk", "401", "Invalid API key")
        assert len(one.err.splitlines()) == 1
        assert several.code == 1
        assert several.report["builds"] == []
        errors = [(failure["file"], failure["error"]) for failure in several.report["failed"]]
        assert errors == [("game.apk", "AuthenticationError"), ("more.apk", "AuthenticationError")]
        assert not box.uploads


async def test_a_full_storage_says_how_full(tmp_path: Path) -> None:
    make(tmp_path, "game.apk")
    async with Sandbox(capacity=999) as box:
        ran = await run(
            "upload", "game.apk", "-n", "N", "--json", env=box.environment, cwd=tmp_path
        )
        assert ran.code == 1
        (failure,) = ran.report["failed"]
        assert failure["error"] == "QuotaExceeded"
        assert "QUOTA_EXCEEDED" in failure["message"]


async def test_a_retry_is_reported_once_on_standard_error_only(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    said = ["upload", "game.zip", "--name", "N", "--platform", "linux", "--multipart", "--json"]
    async with Sandbox(part_size=1000, faults=[Fault(on="put_part", part=2, status=500)]) as box:
        ran = await run(*said, env=box.environment, cwd=tmp_path)
        assert ran.code == 0
        assert len(ran.report["builds"]) == 1
        ran.tells("game.zip", "part 2", "500")
        assert len(ran.err.splitlines()) == 1


async def test_a_broken_progress_pipe_does_not_end_the_upload(tmp_path: Path) -> None:
    make(tmp_path, "game.zip", size=3000)
    said = ["upload", "game.zip", "--name", "N", "--platform", "linux", "--multipart", "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    async with Sandbox(part_size=1000, faults=[Fault(on="put_part", status=500)]) as box:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nunu_async"),
            *said,
            env=environment(box.environment),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=writing,
        )
        os.close(writing)
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
        assert [upload.state for upload in box.uploads.values()] == ["completed"]
        assert next(iter(box.uploads)) in out.decode()


async def test_two_hundred_files_share_four_connections(tmp_path: Path) -> None:
    made = make(tmp_path, *(f"{number:03}.apk" for number in range(200)))
    files = [path.name for path in made]
    said = ["upload", *files, "--name", "N", "--concurrency", "4", "--json"]
    async with Sandbox() as box:
        # Not in development mode: asyncio would log every slow turn of the loop.
        ran = await run(*said, env=box.environment, cwd=tmp_path, python=("-W", "error"))
        assert (ran.code, ran.err) == (0, "")
        assert [build["file"] for build in ran.report["builds"]] == files
        assert len({build["build_id"] for build in ran.report["builds"]}) == 200
        assert names(box) == [f"N - {file}" for file in files]
        assert {upload.state for upload in box.uploads.values()} == {"completed"}
        assert box.journal.connections("storage") <= 4
        assert box.journal.peak("storage") <= 4
        assert box.journal.connections("api") <= 4
        assert len(box.journal) == 600


@pytest.mark.parametrize("json", [(), ("--json",)])
async def test_a_file_name_that_the_output_cannot_show_does_not_spoil_the_result(
    tmp_path: Path, json: tuple[str, ...]
) -> None:
    # What a pipe is on Windows, and a terminal on an old server: not Unicode.
    make(tmp_path, "Spiel \u00fc \u6e38\u620f.apk")
    narrow = {"PYTHONIOENCODING": "ascii:strict"}
    async with Sandbox() as box:
        ran = await run(
            "upload", "*.apk", "-n", "N", *json, env=box.environment | narrow, cwd=tmp_path
        )
        assert ran.code == 0
        assert next(iter(box.uploads)) in ran.out
        if json:
            assert ran.report["builds"][0]["file"] == "Spiel \u00fc \u6e38\u620f.apk"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
async def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    make(tmp_path, os.fsdecode(b"\xff.apk"))
    async with Sandbox() as box:
        as_json, as_text = await together(
            run("upload", "*.apk", "-n", "N", "--json", env=box.environment, cwd=tmp_path),
            run("upload", "*.apk", "-n", "N", env=box.environment, cwd=tmp_path),
        )
        assert as_json.code == as_text.code == 2
        assert as_json.report["failed"][0]["error"] == "InputError"
        as_text.tells("UTF-8")
        assert len(box.journal) == 0


def test_expand_takes_what_exists_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a[1].apk", "a1.apk", "b1.apk", "b2.apk", "dir/c.apk", "dir/deep/d.apk")
    (tmp_path / "dir" / "e.apk").mkdir()
    table = {
        ("a[1].apk",): ["a[1].apk"],
        ("a[0-9].apk",): ["a1.apk"],
        ("b?.apk",): ["b1.apk", "b2.apk"],
        ("b2.apk", "b?.apk"): ["b2.apk", "b1.apk"],
        ("dir/*.apk",): ["dir/c.apk"],
        ("dir/**/*.apk",): ["dir/c.apk", "dir/deep/d.apk"],
        ("**/c.apk",): ["dir/c.apk"],
        ("a1.apk", "./a1.apk", "dir/../a1.apk", str(tmp_path / "a1.apk")): ["a1.apk"],
        # Not for `expand` to judge: the next check says what is wrong.
        ("missing.apk", "dir", ""): ["missing.apk", "dir", ""],
        (): [],
    }
    if sys.platform != "win32":  # has no such names, and links for the few
        make(tmp_path, "c*.apk", "c2.apk")
        (tmp_path / "dangling[2].apk").symlink_to("nowhere")
        table |= {
            ("c*.apk",): ["c*.apk"],
            ("c?.apk",): ["c*.apk", "c2.apk"],
            ("dangling[2].apk",): ["dangling[2].apk"],
        }
    for said, meant in table.items():
        files, unmatched = expand(said)
        assert [Path(file).as_posix() if file else file for file in files] == meant
        assert unmatched == {}


@pytest.mark.parametrize("pattern", ["*.ipa", "dir/*", "none[0].apk", "**/*.exe"])
def test_expand_tells_of_a_pattern_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "good.apk")
    (tmp_path / "dir" / "folder").mkdir(parents=True)
    files, unmatched = expand(["good.apk", pattern])
    assert files == ["good.apk"]
    assert list(unmatched) == [pattern]
    assert isinstance(unmatched[pattern], SourceError)
    assert "no file matches" in str(unmatched[pattern])


@pytest.mark.parametrize(
    ("times", "said"),
    [(0, ""), (1, "1 more reservation may hold space"), (2, "2 more reservations may hold space")],
)
async def test_reservations_that_may_be_left_over_are_reported(
    tmp_path: Path, times: int, said: str
) -> None:
    make(tmp_path, "game.apk")
    faults = [Fault(on="initiate_upload", do="cut", effect=True, times=times)] if times else []
    async with Sandbox(faults=faults) as box:
        ran = await run("upload", "game.apk", "-n", "N", env=box.environment, cwd=tmp_path)
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 1
    assert ran.out.startswith("game.apk -> build ")
    assert said in ran.out
    assert ("reservation" in ran.out) == bool(times)
