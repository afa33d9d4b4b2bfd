//! Maps a request to its answer.
