"""Messages: texts on their way to a number, from the due-set to a sender and its receipt."""
