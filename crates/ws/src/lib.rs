//! RFC 6455 without IO: upgrade head, frame scanner, injection rules, close codes.
