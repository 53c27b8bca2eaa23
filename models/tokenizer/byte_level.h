// The byte-level alphabet of GPT-2: each byte has a printable character (openai/gpt-2 encoder.py).
#pragma once

#include <string>
#include <string_view>

namespace qat::byte_level {

/// The character of a byte, as UTF-8.
std::string_view character(unsigned char byte);

/// Appends the bytes that a piece stands for. False, with nothing appended, when some character of
/// it is not in the alphabet. piece is valid UTF-8.
bool append_bytes(std::string_view piece, std::string& bytes);

}  // namespace qat::byte_level
