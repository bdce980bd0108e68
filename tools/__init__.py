"""What developing Trivium takes; none of it is part of the product."""
