"""SM2 with SM3 through the EVP interface of OpenSSL's libcrypto (≥ 3.0): the one binding to it.

`cryptography` offers no SM2, so the library is bound here by ctypes, and nothing but what signing
and verifying need; and SM4 of a few blocks, whose set-up there costs several times the blocks. The
user id is set on every operation: OpenSSL without one uses an empty id, and such signatures verify
nowhere else. No nonce state is held: a process may fork at any time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import threading
import weakref
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from functools import lru_cache
from typing import Any

from models.errors import Malformed, SigningUnavailable

PUBLIC_KEY_BYTES = 65
SM4_BYTES = 16
_SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")
_OLDEST = 0x30000000
_MAX_DER_BYTES = 72
_MAX_PEM_BYTES = 16384
_MAX_PASSWORD_BYTES = 1023
_USUAL_NAMES = ("libcrypto.so.3", "libcrypto.3.dylib", "libcrypto-3-x64.dll")
_BIO_CTRL_INFO = 3
_PASSWORD_CALLBACK = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "BIO_ctrl": (c_long, (c_void_p, c_int, c_long, c_void_p)),
    "BIO_free": (c_int, (c_void_p,)),
    "BIO_new": (c_void_p, (c_void_p,)),
    "BIO_new_mem_buf": (c_void_p, (c_char_p, c_int)),
    "BIO_s_secmem": (c_void_p, ()),
    "ERR_clear_error": (None, ()),
    "EVP_CIPHER_CTX_free": (None, (c_void_p,)),
    "EVP_CIPHER_CTX_new": (c_void_p, ()),
    "EVP_CIPHER_fetch": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_CIPHER_free": (None, (c_void_p,)),
    "EVP_Cipher": (c_int, (c_void_p, c_char_p, c_char_p, c_uint)),
    "EVP_DigestSign": (c_int, (c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_DigestSignInit": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "EVP_DigestVerify": (c_int, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)),
    "EVP_DigestVerifyInit": (c_int, (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)),
    "EVP_EncryptInit_ex2": (c_int, (c_void_p, c_void_p, c_char_p, c_char_p, c_void_p)),
    "EVP_MD_CTX_free": (None, (c_void_p,)),
    "EVP_MD_CTX_new": (c_void_p, ()),
    "EVP_MD_CTX_set_pkey_ctx": (None, (c_void_p, c_void_p)),
    "EVP_MD_fetch": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_CTX_new_from_name": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_CTX_new_from_pkey": (c_void_p, (c_void_p, c_void_p, c_char_p)),
    "EVP_PKEY_CTX_set1_id": (c_int, (c_void_p, c_char_p, c_int)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_PKEY_generate": (c_int, (c_void_p, POINTER(c_void_p))),
    "EVP_PKEY_get_octet_string_param": (c_int, (c_void_p, c_char_p, c_char_p, c_size_t, POINTER(c_size_t))),
    "EVP_PKEY_is_a": (c_int, (c_void_p, c_char_p)),
    "EVP_PKEY_keygen_init": (c_int, (c_void_p,)),
    "EVP_PKEY_pairwise_check": (c_int, (c_void_p,)),
    "OpenSSL_version_num": (c_ulong, ()),
    "PEM_read_bio_PrivateKey": (c_void_p, (c_void_p, POINTER(c_void_p), _PASSWORD_CALLBACK, c_void_p)),
    "PEM_write_bio_PKCS8PrivateKey": (c_int, (c_void_p, c_void_p, c_void_p, c_char_p, c_int, c_void_p, c_void_p)),
    "d2i_PUBKEY": (c_void_p, (c_void_p, POINTER(c_char_p), c_long)),
}


class Key:
    """A parsed SM2 key inside libcrypto, freed with the last reference; threads may share it."""

    __slots__ = ("__weakref__", "pointer", "public_key")

    def __init__(self, pointer: int, public_key: bytes, free: Callable[[int], None]) -> None:
        self.pointer = pointer
        self.public_key = public_key
        weakref.finalize(self, free, pointer).atexit = False

    def __repr__(self) -> str:
        return f"Key({self.public_key[:5].hex()}…)"


class Libcrypto:
    """One loaded libcrypto that has SM2 and SM3.

    Raises: SigningUnavailable if the library cannot be loaded, is older than 3.0 or lacks SM2 or SM3.
    """

    def __init__(self, path: str) -> None:
        try:
            library, quick = ctypes.CDLL(path), ctypes.PyDLL(path)
            for name, (result, arguments) in _FUNCTIONS.items():
                for function in (getattr(library, name), getattr(quick, name)):
                    function.restype = result
                    function.argtypes = arguments
        except (OSError, AttributeError) as error:
            raise SigningUnavailable("libcrypto cannot be used: expected OpenSSL 3.0 or later with SM2") from error
        if library.OpenSSL_version_num() < _OLDEST:
            raise SigningUnavailable("libcrypto is too old: expected OpenSSL 3.0 or later")
        self.path = path
        self._library = library
        self._sm4 = library.EVP_CIPHER_fetch(None, b"SM4-ECB", None)
        self._sm3 = library.EVP_MD_fetch(None, b"SM3", None)
        context = library.EVP_PKEY_CTX_new_from_name(None, b"SM2", None)
        library.EVP_PKEY_CTX_free(context)
        library.ERR_clear_error()
        if not self._sm3 or not context:
            raise SigningUnavailable("libcrypto was built without SM2: expected OpenSSL 3.0 or later with SM2 and SM3")
        # Kept as attributes: looking a function up in the library costs more than some of the calls. And through a handle that
        # keeps the interpreter's lock: they are so short that giving it away would only make this thread wait for it.
        self._context_new = quick.EVP_MD_CTX_new
        self._context_free = quick.EVP_MD_CTX_free
        self._set_key_context = quick.EVP_MD_CTX_set_pkey_ctx
        self._key_context_new = quick.EVP_PKEY_CTX_new_from_pkey
        self._key_context_free = quick.EVP_PKEY_CTX_free
        self._set_id = quick.EVP_PKEY_CTX_set1_id
        self._clear_error = quick.ERR_clear_error
        self._cipher_new = quick.EVP_CIPHER_CTX_new
        self._cipher_free = quick.EVP_CIPHER_CTX_free
        self._cipher_init = quick.EVP_EncryptInit_ex2
        self._cipher = quick.EVP_Cipher

    def generate(self) -> Key:
        """A new key from OpenSSL's own generator."""
        library = self._library
        context = library.EVP_PKEY_CTX_new_from_name(None, b"SM2", None)
        pointer = c_void_p()
        try:
            made = library.EVP_PKEY_keygen_init(context) == 1 and library.EVP_PKEY_generate(context, byref(pointer)) == 1
        finally:
            library.EVP_PKEY_CTX_free(context)
            library.ERR_clear_error()
        if not made or not pointer.value:
            raise SigningUnavailable("libcrypto made no SM2 key")
        return self._key(pointer.value)

    def private_key(self, pem: bytes, *, password: bytes | None = None) -> Key:
        """The SM2 key in a PKCS#8 PEM text.

        Raises: Malformed if the text is no PKCS#8 PEM, the password is wrong or missing, or the key is not SM2.
        """
        if len(pem) > _MAX_PEM_BYTES:
            raise Malformed(f"private key is too long: expected at most {_MAX_PEM_BYTES} bytes of PEM, got {len(pem)}")
        if b"-----BEGIN PRIVATE KEY-----" not in pem and b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in pem:
            raise Malformed("private key has wrong form: expected PKCS#8 in PEM")
        secret = password or b""

        # With no callback OpenSSL would ask at the terminal for the password of an encrypted key.
        def answer(buffer: int, size: int, _writing: int, _user: int) -> int:
            if not secret or len(secret) > min(size, _MAX_PASSWORD_BYTES):
                return -1
            ctypes.memmove(buffer, secret, len(secret))
            return len(secret)

        library = self._library
        bio = library.BIO_new_mem_buf(pem, len(pem))
        try:
            pointer = library.PEM_read_bio_PrivateKey(bio, None, _PASSWORD_CALLBACK(answer), None)
        finally:
            library.BIO_free(bio)
            library.ERR_clear_error()
        if not pointer:
            raise Malformed("private key cannot be read: expected PKCS#8 of an SM2 key, and its password if it is encrypted")
        key = self._key(pointer)
        context = library.EVP_PKEY_CTX_new_from_pkey(None, pointer, None)
        matches = library.EVP_PKEY_pairwise_check(context)
        library.EVP_PKEY_CTX_free(context)
        library.ERR_clear_error()
        if matches != 1:
            raise Malformed("private key contradicts its public key")
        return key

    def public_key(self, public_key: bytes) -> Key:
        """The key of 65 bytes 04‖X‖Y.

        Raises: Malformed if the length or first byte is wrong, or the point is not on the curve.
        """
        if len(public_key) != PUBLIC_KEY_BYTES or public_key[0] != 4:
            raise Malformed(f"public key has wrong form: expected 65 bytes beginning 04, got {len(public_key)}")
        library = self._library
        der = _SPKI_PREFIX + public_key
        pointer = library.d2i_PUBKEY(None, byref(c_char_p(der)), len(der))
        library.ERR_clear_error()
        if not pointer:
            raise Malformed("public key is not a point on the SM2 curve")
        return self._key(pointer)

    def to_pem(self, key: Key, *, password: bytes | None = None) -> bytes:
        """The private key as PKCS#8 PEM, encrypted (PBES2, AES-256-CBC) where a password is given.

        Raises: Malformed if the password is empty or too long to be read again; SigningUnavailable if the key is public only.
        """
        if password is not None and not 0 < len(password) <= _MAX_PASSWORD_BYTES:
            raise Malformed(f"password has wrong length: expected 1 to {_MAX_PASSWORD_BYTES} bytes, or none at all")
        library = self._library
        cipher = library.EVP_CIPHER_fetch(None, b"AES-256-CBC", None) if password else None
        bio = library.BIO_new(library.BIO_s_secmem())
        try:
            if library.PEM_write_bio_PKCS8PrivateKey(bio, key.pointer, cipher, password, len(password or b""), None, None) != 1:
                raise SigningUnavailable("private key cannot be written out")
            start = c_void_p()
            size = library.BIO_ctrl(bio, _BIO_CTRL_INFO, 0, byref(start))
            return ctypes.string_at(start.value or 0, size)
        finally:
            library.BIO_free(bio)
            library.EVP_CIPHER_free(cipher)
            library.ERR_clear_error()

    def sign(self, key: Key, message: bytes, user_id: bytes) -> bytes:
        """The SM2 signature over `message` in DER.

        Raises: SigningUnavailable if the key is public only or libcrypto refuses.
        """
        library = self._library
        buffer = ctypes.create_string_buffer(_MAX_DER_BYTES)
        size = c_size_t(_MAX_DER_BYTES)
        context, key_context = self._contexts(key, user_id)
        try:
            if (
                library.EVP_DigestSignInit(context, None, self._sm3, None, key.pointer) != 1
                or library.EVP_DigestSign(context, buffer, byref(size), message, len(message)) != 1
            ):
                raise SigningUnavailable("libcrypto made no signature: expected a private SM2 key")
            return buffer.raw[: size.value]
        finally:
            self._release(context, key_context)

    def verify(self, key: Key, message: bytes, der: bytes, user_id: bytes) -> bool:
        """Whether `der` is the signature of `key` over `message`."""
        library = self._library
        context, key_context = self._contexts(key, user_id)
        try:
            if library.EVP_DigestVerifyInit(context, None, self._sm3, None, key.pointer) != 1:
                raise SigningUnavailable("libcrypto cannot verify with SM2")
            return bool(library.EVP_DigestVerify(context, der, len(der), message, len(message)) == 1)
        finally:
            self._release(context, key_context)

    def sm4(self, key: bytes, blocks: bytes) -> bytes:
        """Each block of 16 bytes encrypted by itself. Nothing of the key is kept.

        Raises: Malformed if the key is not 16 bytes or `blocks` are not whole; SigningUnavailable if libcrypto has no SM4.
        Source: GB/T 32907—2016.
        """
        size = len(blocks)
        if len(key) != SM4_BYTES or size % SM4_BYTES:
            raise Malformed(f"SM4 key or blocks have wrong length: expected {SM4_BYTES} bytes each")
        buffer = ctypes.create_string_buffer(size)
        context = self._cipher_new()
        if not context:
            raise SigningUnavailable("libcrypto cannot encrypt with SM4")
        try:
            if self._cipher_init(context, self._sm4, key, None, None) != 1 or self._cipher(context, buffer, blocks, size) != size:
                self._clear_error()
                raise SigningUnavailable("libcrypto cannot encrypt with SM4")
        finally:
            self._cipher_free(context)
        return buffer.raw

    def _contexts(self, key: Key, user_id: bytes) -> tuple[int, int]:
        context = self._context_new()
        key_context = self._key_context_new(None, key.pointer, None)
        if not context or not key_context or self._set_id(key_context, user_id, len(user_id)) != 1:
            self._release(context, key_context)
            raise SigningUnavailable("libcrypto cannot set the SM2 user id")
        self._set_key_context(context, key_context)
        return context, key_context

    def _release(self, context: int, key_context: int) -> None:
        self._context_free(context)
        self._key_context_free(key_context)
        self._clear_error()

    def _key(self, pointer: int) -> Key:
        library = self._library
        public = ctypes.create_string_buffer(PUBLIC_KEY_BYTES)
        size = c_size_t()
        key = Key(pointer, b"", library.EVP_PKEY_free)
        is_sm2 = library.EVP_PKEY_is_a(pointer, b"SM2")
        found = library.EVP_PKEY_get_octet_string_param(pointer, b"pub", public, PUBLIC_KEY_BYTES, byref(size))
        library.ERR_clear_error()
        if is_sm2 != 1:
            raise Malformed("key is of another kind: expected SM2")
        if found != 1 or size.value != PUBLIC_KEY_BYTES or public.raw[0] != 4:
            raise Malformed("key has no uncompressed public point")
        key.public_key = public.raw
        return key


def _load_default() -> Libcrypto:
    """The libcrypto of this machine, by its usual name first: asking the linker starts a process."""
    refusal = SigningUnavailable("no libcrypto is found: expected OpenSSL 3.0 or later with SM2")
    for name in _USUAL_NAMES:
        try:
            return Libcrypto(name)
        except SigningUnavailable as error:
            refusal = error
    found = ctypes.util.find_library("crypto")
    if found is None:
        raise refusal
    return Libcrypto(found)


@lru_cache(maxsize=8)
def _loaded(path: str | None) -> Libcrypto | SigningUnavailable:
    try:
        return Libcrypto(path) if path is not None else _load_default()
    except SigningUnavailable as error:
        return error


_LOADING = threading.Lock()


def load(path: str | None = None) -> Libcrypto:
    """The libcrypto at `path`, or the machine's own; loaded once per process.

    Raises: SigningUnavailable, with one sentence, if there is none with SM2.
    """
    with _LOADING:
        library = _loaded(path)
    if isinstance(library, SigningUnavailable):
        raise SigningUnavailable(library.message) from library
    return library
