"""The sandbox's own arithmetic of money: whole minor units and exact decimals."""

from decimal import ROUND_HALF_UP, Decimal

FEE_PER_MILLE = 29
FEE_FIXED_MINOR = 30

_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"
_TWO = (
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad "
    "cdf chf cny cop crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl "
    "htg huf idr ils inr isk jmd kes kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop "
    "mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln qar ron rsd rub sar "
    "sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah usd uyu uzs wst xcd "
    "yer zar zmw"
)
ZERO_DECIMAL = frozenset(_ZERO.split())
THREE_DECIMAL = frozenset(_THREE.split())
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | frozenset(_TWO.split())

CHARGE_MINOR_MIN = 50
"""The smallest charge, as for USD and EUR; one rule serves all currencies here."""


def processing_fee_minor(amount_minor: int) -> int:
    """Return Stripe's fee for a successful charge: 2.9 % rounded half up, plus 30 minor units."""
    return (amount_minor * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED_MINOR


def half_up(amount: Decimal) -> int:
    """Round an exact amount to whole minor units, halves away from zero."""
    return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def share(amount_minor: int, part: int, whole: int) -> int:
    """Return `part / whole` of an amount, rounded half away from zero; 0 of nothing."""
    if whole == 0:
        return 0
    return half_up(Decimal(amount_minor) * part / whole)


def percent(amount_minor: int, rate: Decimal) -> int:
    """Return a percentage of an amount, rounded half away from zero."""
    return half_up(Decimal(amount_minor) * rate / 100)


def plain(number: Decimal) -> str:
    """Spell a decimal without exponent or trailing zeros, as Stripe's `*_decimal` fields do."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(amount_minor: int, currency: str) -> str:
    """Spell an amount for a person, such as `12.50 EUR`."""
    places = 0 if currency in ZERO_DECIMAL else 3 if currency in THREE_DECIMAL else 2
    amount = Decimal(amount_minor).scaleb(-places)
    return f"{amount:,.{places}f} {currency.upper()}"
