"""Code of functions and bodies on its way: from clients to the broker, to kernels, and from kernel to kernel."""

from park.wire.messages.base import Count, Finite, Hashes, Message


class Blob(Message, frozen=True):
    """The code of a function or a body: the payload. From then on both ends name it by the *hash* of its content.

    *brief*: it is for maps of a session, which are not stored.
    """

    carries = True
    hash: bytes
    reply: Count = 0
    brief: bool = False


class NeedBlob(Message, frozen=True):
    """broker -> client, kernel -> broker, slot -> kernel: the sender lacks the code *hash*. The receiver sends it as a
    Blob, and the work that needs it goes on. A kernel gives back the work that needs it, and offers it to others no longer.
    """

    hash: bytes


class Share(Message, frozen=True):
    """broker -> kernel: other kernels need the code *hash*, which this one was sent. It answers with Shared. *abroad*:
    some are on other machines.
    """

    hash: bytes
    abroad: bool = False


class Shared(Message, frozen=True):
    """kernel -> broker: the code *hash* is here. Kernels of the same machine find it as the descriptor *file* of *process*,
    a sealed file in memory. Kernels of other machines fetch it at *port*, encrypted: *cipher* is the name of the
    ciphertext and *key* its key (`park.net.ciphertext`). The broker makes tickets from *secret*. Port 0: they cannot
    fetch it here.
    """

    hash: bytes
    process: Count
    file: Count
    port: Count = 0
    cipher: bytes = b""
    key: bytes = b""
    secret: bytes = b""


class Offer(Message, frozen=True):
    """broker -> kernel: work needs the code *hash*, of *size* bytes, and another kernel has it. This one takes it
    there, and answers with Shared, or with NeedBlob. The bytes count only if their hash is right. *trusted*: both
    kernels have shown the same key, so that no stranger can have changed the bytes, and the hash need not be checked.

    *process* and *file*, or *address*, *cipher* and *key*: as in Shared. *ticket* is good for one fetch at the address.
    With neither a process nor an address, that kernel is about to have the code, and a further Offer comes.
    """

    hash: bytes
    size: Count
    process: Count = 0
    file: Count = 0
    address: str = ""
    cipher: bytes = b""
    key: bytes = b""
    ticket: bytes = b""
    trusted: bool = False


class Serve(Message, frozen=True):
    """broker -> kernel: another kernel will fetch the ciphertext *cipher*, with this *ticket*, within some *seconds*."""

    cipher: bytes
    ticket: bytes
    seconds: Finite


class Drop(Message, frozen=True):
    """kernel -> slot: the process holds too much code. It forgets these blobs, and gets each again before it is needed.
    Code of a map that a driver in it waits for it first sends back to the kernel.
    """

    hashes: Hashes
