//! The frames of the feed (`docs/feed.md`): length, kind, body.
