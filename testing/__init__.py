"""For tests of programs that use Trivium: a whole one on free ports, and a broker that is not there."""
