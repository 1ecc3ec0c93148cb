import io

from PIL import Image

from monitoring.pictures import thumbnail


def test_thumbnail_is_small_upright_and_without_the_metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    file = io.BytesIO()
    Image.new("RGB", (3000, 1500), "red").save(file, "JPEG", exif=exif)
    content = thumbnail(file.getvalue())
    image = Image.open(io.BytesIO(content))
    assert image.size == (72, 144)
    assert not image.getexif()
    assert len(content) < 10_000
