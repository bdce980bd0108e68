"""What a context trusts that is given a file of authorities."""

import ssl


def trust_all_of_it(context: ssl.SSLContext) -> None:
    """Trust whatever the file holds, be it the root or a part of the organisation's tree, as gRPC does.

    And the same on every Python: default contexts of 3.13 ask for extensions that openssl does not write unasked.
    """
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
