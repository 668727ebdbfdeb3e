"""What a prediction's control image is when it is taken in, and whose."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from store_fixtures import DONE

from depthflux.errors import UnreadableImageError
from depthflux.images import ReadLimits
from depthflux.server.answers import given_input
from depthflux.server.database import Database
from depthflux.server.intake import Intake
from depthflux.server.jobs import Jobs
from depthflux.server.judging import Asked, Judged
from depthflux.server.media import Media
from depthflux.server.predictions import Predictions
from depthflux.server.rows import Stored, output_names
from depthflux.server.settings import ServerSettings
from depthflux.server.uploads import Uploads
from stand_in.running import PICTURE

BASE = "http://127.0.0.1:8000/api/v3"
BYTES = base64.b64decode(PICTURE)
FIELDS = {"prompt": "a", "output_format": "png", "num_images": 1}


@pytest.fixture
def intake(database: Database, media: Media, tmp_path: Path) -> Intake:
    """An intake into a store that nothing is in."""
    return Intake(
        ServerSettings(data_dir=tmp_path),
        ReadLimits(),
        database,
        media,
        retry_after_s=lambda before: 1.0,
    )


def submit(intake: Intake, control_file: str) -> Stored:
    asked = Asked(
        fields=dict(FIELDS),
        picture=None,
        control_url="",
        control_file=control_file,
        webhook_url="",
        once=None,
    )
    return intake.submit(asked, owner="me", base=BASE)[0]


def output_of(intake: Intake, database: Database, media: Media) -> tuple[Stored, str]:
    """A completed prediction, and its picture's name."""
    upload = intake.upload(Judged(data=BYTES, format="png"), "me")
    one = submit(intake, upload.name)
    Jobs(database).claim("worker")
    media.write_output(output_names(one)[0], BYTES)
    assert Jobs(database).complete(one.id, "worker", DONE)
    return one, output_names(one)[0]


def test_an_output_as_control_image_belongs_to_the_prediction_that_needs_it(
    intake: Intake, database: Database, media: Media
) -> None:
    rooms = Predictions(database)
    first, output = output_of(intake, database, media)

    second = submit(intake, output)
    for removed in rooms.remove([first.id], "me"):
        media.remove_outputs(removed.files)
    kept = media.read(second.control_file)
    gone = rooms.remove([second.id], "me")

    assert media.read(output) is None
    assert kept == BYTES
    assert given_input(second, BASE)["control_image"].endswith(f"/media/{second.control_file}")
    assert second.control_file != output
    # Like a picture that came inside its request it goes with it, and not by its age.
    assert [one.upload for one in gone] == [second.control_file]


def test_an_output_that_is_deleted_just_now_is_refused(
    intake: Intake, database: Database, media: Media
) -> None:
    _, output = output_of(intake, database, media)
    before = Predictions(database).counts()
    media.remove_outputs([output])

    with pytest.raises(UnreadableImageError, match="no picture at this address of ours"):
        submit(intake, output)

    assert Predictions(database).counts() == before


def test_an_upload_that_is_deleted_just_now_is_refused(intake: Intake, database: Database) -> None:
    upload = intake.upload(Judged(data=BYTES, format="png"), "me")
    assert Uploads(database).remove_older(2**62) == [upload.name]

    with pytest.raises(UnreadableImageError, match="no picture at this address of ours"):
        submit(intake, upload.name)

    assert Predictions(database).counts() == {}
