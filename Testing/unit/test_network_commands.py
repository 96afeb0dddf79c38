"""What `ppcmi segment --from-dicomweb` and `ppcmi node` refuse before anything travels."""

import pytest

from ppcmi.cli.main import main

SEGMENT = ("segment", "--task", "t", "-o", "out")
NODE = ("node", "--task", "t", "-o", "node", "--return-to", "ORTHANC@127.0.0.1:4242")
ARCHIVE = ("--from-dicomweb", "http://127.0.0.1:9/dicom-web", "--study", "1.2.3")


def refusal(capsys, tmp_path, words):
    code = main([*words, "--site", str(tmp_path / "nobody"), "--quiet"])
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return code, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SEGMENT, "--study", "1.2.3"), "--study is about an archive"),
        ((*SEGMENT, "scan.nii", "--store"), "--store is about an archive"),
        ((*SEGMENT, "--from-dicomweb", "http://127.0.0.1:9"), "by --study"),
        ((*SEGMENT, *ARCHIVE, "scan.nii"), "leave out one of"),
        ((*SEGMENT, "--from-dicomweb", "http://pacs.example.org", "--study", "1.2"), "must start with https"),
        ((*SEGMENT, "--from-dicomweb", "https://mary:secret@pacs.example.org", "--study", "1.2"), "no user name"),
        ((*SEGMENT, *ARCHIVE, "--archive-user", "mary", "--archive-token-file", "t"), "either a token or a user"),
        ((*SEGMENT, *ARCHIVE, "--archive-password-file", "p"), "--archive-user"),
        ((*SEGMENT, *ARCHIVE, "--archive-token-file", "not-there"), "file with the token cannot be read"),
        ((*NODE[:-1], "ORTHANC"), "AET@HOST:PORT"),
        ((*NODE, "--ae-title", "MUCH TOO LONG A TITLE"), "AE title"),
        ((*NODE, "--allow", "A\\B"), "AE title"),
        ((*NODE, "--host", "0.0.0.0"), "over TLS only; give --tls-cert"),  # noqa: S104 refused
        ((*NODE[:-1], "ORTHANC@pacs.example.org:104"), "over TLS only; give --return-tls"),
        ((*NODE, "--tls-cert", "c.pem"), "both --tls-cert and --tls-key"),
        ((*NODE, "--tls-cert", "c.pem", "--tls-key", "k.pem"), "--tls-cert and --tls-key are not"),
        ((*NODE, "--port", "70000"), "--port"),
        ((*NODE, "--quiet-s", "nan"), "--quiet-s"),
        ((*NODE, "--quota-gb", "0"), "--quota-gb"),
    ],
)
def test_what_does_not_go_together_is_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, err = refusal(capsys, tmp_path, words)
    assert said in err
    assert "secret" not in err
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_is_none_is_not_sent_anywhere(capsys, tmp_path):
    (tmp_path / "token").write_text("two words\n")
    code, err = refusal(capsys, tmp_path, (*SEGMENT, *ARCHIVE, "--archive-token-file", str(tmp_path / "token")))
    assert code == 2
    assert "two words" not in err
    assert "no token" in err
