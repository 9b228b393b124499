"""How a flow field or a frame becomes bytes: quality-95 JPEGs inside serialised tf.train.Example records."""

from __future__ import annotations

import re

import cv2
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from input_pipeline.schema import dequantise_flow
from input_pipeline.videos import MAX_FRAME_PX

# The 2014 paper (Sect. 5) stores flow as JPEG and gives no quality. At 95 a field of real clips, bound 20 px, comes
# back with a mean error of .05 px.
JPEG_QUALITY = 95

_START_OF_IMAGE = b"\xff\xd8"
_END_OF_IMAGE = b"\xff\xd9"
# In the coded picture 0xff stands before 0 or a restart marker (0xd0 to 0xd7), and may be repeated before a marker.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def encode_field(levels: np.ndarray) -> tuple[bytes, bytes]:
    """Return the grey JPEGs (x, y) of one field's uint8 levels [2, H, W]."""
    assert levels.dtype == np.uint8 and levels.ndim == 3 and levels.shape[0] == 2, (levels.dtype, levels.shape)
    return _encode(levels[0]), _encode(levels[1])


def decode_grey(jpeg: bytes) -> np.ndarray:
    """Return uint8 [H, W] of a grey JPEG. Raises ValueError when it is damaged."""
    return _decode(jpeg, cv2.IMREAD_GRAYSCALE)


def encode_frame(rgb: np.ndarray) -> bytes:
    """Return the JPEG of an RGB frame, uint8 [H, W, 3]."""
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (rgb.dtype, rgb.shape)
    return _encode(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def decode_frame(jpeg: bytes) -> np.ndarray:
    """Return the RGB frame of a JPEG, uint8 [H, W, 3]. Raises ValueError when it is damaged."""
    return cv2.cvtColor(_decode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def mean_of_stored(x_jpeg: bytes, y_jpeg: bytes, bound_px: float) -> np.ndarray:
    """Return the mean vector (x, y) of a field as stored, float32 [2] in px per frame.

    It is taken after decoding: a crop that subtracts it subtracts what the whole decoded field would.
    """
    return mean_of_levels(np.stack([decode_grey(x_jpeg), decode_grey(y_jpeg)]), bound_px)


def mean_of_levels(levels: np.ndarray, bound_px: float) -> np.ndarray:
    """Return the mean vector (x, y) of a decoded field, uint8 [2, H, W], as float32 [2] in px per frame."""
    # The formula is affine, so the mean of the levels maps to the mean of the px; float64 keeps the sum exact.
    return dequantise_flow(levels.mean(axis=(1, 2), dtype=np.float64), bound_px)


def _encode(image: np.ndarray) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, image.shape
    return jpeg.tobytes()


def _decode(jpeg: bytes, flag: int) -> np.ndarray:
    # Without its end marker a JPEG was cut short; OpenCV would fill the rest with grey and say nothing.
    if not jpeg.endswith(_END_OF_IMAGE) and not _has_end(jpeg):
        raise ValueError(f"damaged JPEG: {len(jpeg)} bytes without an end marker")
    height, width = claimed_size(jpeg)
    if height * width > MAX_FRAME_PX:
        raise ValueError(f"damaged JPEG: claims {width}x{height} px, more than {MAX_FRAME_PX:,}")
    # OpenCV would also decode any other kind of picture, whose header nobody has looked at.
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag) if jpeg.startswith(_START_OF_IMAGE) else None
    if image is None:
        raise ValueError(f"damaged JPEG: {len(jpeg)} bytes that cannot be decoded")
    return image


def _has_end(jpeg: bytes) -> bool:
    """Return whether the picture's own end marker stands in it, with other bytes after it as some tools leave.

    Segments are passed over by their lengths (ITU-T T.81, annex B): the end marker of a thumbnail in one does not count.
    """
    place = 2
    while marker := _NEXT_MARKER.search(jpeg, place):
        if marker[0] == _END_OF_IMAGE:
            return True
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return False


def claimed_size(jpeg: bytes) -> tuple[int, int]:
    """Return the (height, width) in px that a JPEG's frame header states, (0, 0) where none is found.

    OpenCV would take what a damaged header claims at its word: 6 GB and 20 s for 32000x32000 px. The header is the first
    segment SOF0 .. SOF15 (ITU-T T.81, B.1.1.3 and B.2.2); DHT, JPG and DAC lie in the same range of markers.
    """
    place = 2
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(jpeg[place + 5 : place + 7], "big"), int.from_bytes(
                jpeg[place + 7 : place + 9], "big"
            )
        # A marker may be preceded by any number of fill bytes FF; others are followed by their segment's length.
        place += 1 if marker == 0xFF else 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return 0, 0


def serialise_frame(video: str, index: int, image: bytes) -> bytes:
    """Return the record of frame `index` (from 0) of a video: features video, index, image."""
    return _serialise(video, index, {"image": image}, None)


def parse_frame(record: bytes) -> tuple[str, int, bytes]:
    """Return (video, index, image JPEG) of a frame's record. Raises ValueError when it is none."""
    video, index, feature = _parse(record)
    return video, index, _bytes(feature, "image")


def serialise_field(video: str, index: int, x: bytes, y: bytes, mean: np.ndarray) -> bytes:
    """Return the record of field `index` (from 0) of a video: features video, index, x, y, mean ([2] in px)."""
    return _serialise(video, index, {"x": x, "y": y}, mean)


def parse_field(record: bytes) -> tuple[str, int, bytes, bytes, np.ndarray]:
    """Return (video, index, x JPEG, y JPEG, mean float32 [2] in px) of a field's record.

    Raises ValueError when it is none.
    """
    video, index, feature = _parse(record)
    mean = np.array(feature["mean"].float_list.value, np.float32)
    if mean.shape != (2,):
        raise ValueError("record without the feature mean [2]")
    return video, index, _bytes(feature, "x"), _bytes(feature, "y"), mean


def _serialise(video: str, index: int, images: dict[str, bytes], mean: np.ndarray | None) -> bytes:
    example = _Example()
    feature = example.features.feature
    feature["video"].bytes_list.value.append(video.encode())
    feature["index"].int64_list.value.append(index)
    for key, image in images.items():
        feature[key].bytes_list.value.append(image)
    if mean is not None:
        feature["mean"].float_list.value.extend(mean.tolist())
    # Maps have no order of their own; the same field must give the same bytes.
    return example.SerializeToString(deterministic=True)


def _parse(record: bytes) -> tuple[str, int, dict]:
    try:
        feature = _Example.FromString(record).features.feature
    except DecodeError as error:
        raise ValueError(f"record of {len(record)} bytes is not a tf.train.Example ({error})") from error
    if not feature["index"].int64_list.value:
        raise ValueError("record without the feature index")
    return _bytes(feature, "video").decode(), feature["index"].int64_list.value[0], feature


def _bytes(feature: dict, key: str) -> bytes:
    values = feature[key].bytes_list.value
    if len(values) != 1:
        raise ValueError(f"record without the feature {key}")
    return values[0]


def _example_class() -> type:
    """Return tf.train.Example's message class, described here so that neither tensorflow nor its protos are needed.

    Field numbers from tensorflow/core/example/{example,feature}.proto. A pool of its own keeps it apart from
    tensorflow's, should a caller load both.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    kinds = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    for name, value_type in kinds:
        file.message_type.add(name=name).field.add(name="value", number=1, type=value_type, label=many)

    def refer(message, name: str, number: int, to: str, label: int = one, **extra) -> None:
        to = f".tensorflow.{to}"
        message.field.add(name=name, number=number, type=field.TYPE_MESSAGE, type_name=to, label=label, **extra)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        refer(feature, name, number, kinds[number - 1][0], oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
    refer(entry, "value", 2, "Feature")
    refer(features, "feature", 1, "Features.FeatureEntry", label=many)
    refer(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()

# For readers of Examples that others wrote.
Example = _Example
