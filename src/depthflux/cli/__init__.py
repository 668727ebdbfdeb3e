"""The command line: `depthflux COMMAND`.

    root.py       the command `depthflux`: which commands there are, loaded when they are called
    generate.py   pictures from a request, a file of one, or a picture's record (replay.py)
    demo.py       the packaged miniature on a packaged picture, on one sheet (sheet.py)
    depth.py      only the depth map
    serve.py      the hosted endpoint over HTTP
    weights.py    the weights: listed, pulled, verified (bytes_progress.py shows how far), prepared
    doctor.py     what this machine can run (diagnosis.py and weights_check.py find it out)
    config.py     the effective settings and their sources
    options.py    options derived from the request's and the settings' declarations
    inputs.py     what comes from files and standard input; inspected before a model is loaded
    outputs.py    folders and files that results go to
    progress.py   the progress bar        messages.py   the log, on standard error
    errors.py     exceptions → one line and an exit code

Results go to standard output, everything else to standard error. This package holds no model
logic: it turns words into requests and predictions into words.
"""


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    from depthflux.cli.root import root

    root()
