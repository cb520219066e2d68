"""What answers while the supervisor crashes again and again. Standard library only, and as little as will do."""
