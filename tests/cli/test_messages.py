from gvit.cli.messages import print_error
from gvit.errors import InputError, option


def test_errors_are_said_in_flags(capsys):
    print_error(InputError(f"{option('batch_size', 0)} is too small"))
    assert capsys.readouterr().err == "gvit: error: --batch-size 0 is too small\n"


def test_one_line_of_what_a_data_loaders_worker_says(capsys):
    wrapped = (
        "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "worker.py", line 1, in load\n    raise UnidentifiedImageError\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        "gvit.errors.InputError: a.png: not an image file\n"
    )
    print_error(InputError(wrapped))
    assert capsys.readouterr().err == "gvit: error: a.png: not an image file\n"
