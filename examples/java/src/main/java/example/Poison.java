package example;

/** The event can never be handled, however often it is tried. After any other exception it is tried again. */
final class Poison extends RuntimeException {
  Poison(String message) {
    super(message);
  }

  Poison(String message, Throwable cause) {
    super(message + ": " + cause.getMessage(), cause);
  }
}
