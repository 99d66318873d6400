// The JSON at the end of a main stream, which says what each device's state consists of. Here: how long it is.
//
//     {"devices": [{"name": idstr, "instance_id": N, "vmsd_name": ..., "version": ...,
//                   "fields": [{"name": ..., "type": ..., "size": BYTES, "array_len": N or absent}, ...],
//                   "subsections": [{"vmsd_name": ..., "fields": [...], "subsections": [...]}, ...] or absent}, ...]}
//
// The size of a field is what was written for it, with all that is nested in it; of an array whose elements are alike only the
// first is described, and array_len counts them (migration/vmstate.c:vmstate_save_state_v, 10.0 and 11.1). A subsection has a
// head of 05, u8 length, name, be32 version, which is in no size (migration/vmstate.c:vmstate_subsection_save).
#pragma once

#include <string_view>

#include "vmm-shim/main_stream.h"

namespace vh {

/// Lengths of the devices' states. Throws std::runtime_error naming the device and the field.
DeviceLengths deviceLengths(std::string_view description);

/// Reads a whole main stream by the description at its own end. Throws DecodeError, std::runtime_error.
MainStream decodeDescribedStream(std::string_view bytes);

}  // namespace vh
