"""Every type that PostgreSQL and the usual extensions have, with the values that are most easily lost.

types_tables.py makes tables of them: a `Kind` becomes a column, row by row its values, and NULL in between.
`needs` is what they need to travel exactly (`full` REPLICA IDENTITY FULL or the converter, `raw` the converter);
`keys` are pairs of values for a table keyed by the type, the second of which the key is changed to.
"""

from __future__ import annotations

from tests.acceptance.types_arrays import FULL_ARRAYS, RAW_ARRAYS, STOCK_ARRAYS
from tests.acceptance.types_kinds import BIG_JSON, BIG_POLYGON, BIG_SPARSE, BIG_TEXT, BIG_WORDS, Kind, big_array

SCHEMA = "shop"
EXTENSIONS = ("hstore", "citext", "ltree", "cube", "seg", "isn", "vector", "lo")
TYPES = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.mood AS ENUM ('sad', 'it''s "q"', 'a,b', 'ünï 😀', '\\');
    CREATE TYPE shop.pair AS (a int, b text, c numeric(10,3), d timestamptz);
    CREATE TYPE shop."Pair of Pairs" AS ("x y" shop.pair, l shop.pair[], m shop.mood[], n int[]);
    CREATE DOMAIN shop.price AS numeric(12,4) CHECK (VALUE >= 0);
    CREATE DOMAIN shop.label AS text CHECK (length(VALUE) < 30000);
    CREATE DOMAIN shop.short_label AS shop.label CHECK (VALUE <> 'bad');
    CREATE DOMAIN shop.moment AS timestamptz;
    CREATE DOMAIN shop.day AS date;
    CREATE DOMAIN shop.feeling AS shop.mood;
    CREATE DOMAIN shop.code AS varchar(20);
    CREATE DOMAIN shop.flags AS bit(11);
    CREATE DOMAIN shop.bits AS varbit(9);
    CREATE DOMAIN shop.opening AS timetz;
    CREATE DOMAIN shop.body AS bytea;
    CREATE DOMAIN shop.document AS jsonb;
    CREATE DOMAIN shop.couple AS shop.pair;
    CREATE DOMAIN shop.numbers AS int[];
    CREATE DOMAIN shop.moods AS shop.mood[];
    CREATE TYPE shop.span AS RANGE (subtype = float8, multirange_type_name = shop.spans);
"""


_TEXT = (
    "",
    "ünïcödé 😀 \"dq\" 'sq' \\ back\nnew\ttab\rcr",
    "\\N",
    "NULL",
    "null",
    " \u2028\ufeff ",
    "\u0301e",
    "%s {}",
)
_JSON = ('{"a" :  1, "a":2, "n":null}', "[1.0, 1e400, 1.10]", '"\\u0000"', "  null ", "{}", '"\\ud83d\\ude00"')
_MOMENTS = (
    "2024-02-29 12:34:56.789012", "0001-01-01 00:00:00", "0001-01-01 00:00:00 BC", "4714-11-24 00:00:00 BC",
    "9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "1582-10-04 23:59:59", "1582-10-10 12:00:00",
    "1500-02-28 01:02:03", "0044-03-15 12:00:00.000001 BC", "1969-12-31 23:59:59.999999", "1883-11-18 12:00:00",
    "2024-03-31 02:30:00", "infinity", "-infinity",
)  # fmt: skip

BUILT_IN = (
    Kind("smallint", ("-32768", "32767", "0")),
    Kind("integer", ("-2147483648", "2147483647", "0")),
    Kind("bigint", ("-9223372036854775808", "9223372036854775807", "9007199254740993")),
    Kind(
        "real",
        ("NaN", "Infinity", "-Infinity", "-0", "0", "1e-45", "3.4028235e38", "0.1", "16777217", "1e15", "8388608.5"),
        keys=(("0", "-0"), ("0.1", "0.3"), ("NaN", "1")),
    ),
    Kind(
        "double precision",
        (
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "5e-324",
            "1.7976931348623157e308",
            "0.30000000000000004",
            "1e21",
            "1e14",
        ),
        keys=(("0", "-0"), ("NaN", "2")),
    ),
    Kind("numeric(10,2)", ("1.5", "-99999999.99", "NaN", "0")),
    Kind("numeric(5,-2)", ("1234500", "-100")),
    Kind("numeric(3,5)", ("0.00123", "0")),
    Kind("numeric(1000,500)", ("1.5",)),
    Kind(
        "numeric",
        ("9" * 400, "1.5000", "0.000", "-0.0", "1e-1000", "1e1000", "NaN", "Infinity", "-Infinity", "1e-16383"),
        keys=(("1.5", "1.500"), ("NaN", "7"), ("1e30", "3")),
        big="repeat('1234567890', 2000)::numeric",
    ),
    Kind("money", ("$1,234.56", "-$0.01", "92233720368547758.07", "-92233720368547758.08"), keys=(("1", "2"),)),
    Kind("boolean", ("t", "f"), keys=(("t", "f"),)),
    Kind("oid", ("0", "4294967295")),
    Kind("character(5)", ("ab", "", "a    ", "é😀"), keys=(("a", "b  "),)),
    Kind("bpchar", ("ab  ", "x", ""), keys=(("a", "a  "), ("b", "c")), big=f"({BIG_TEXT} || '  ')::bpchar"),
    Kind("character varying", _TEXT, big=BIG_TEXT),
    Kind("character varying(10)", ("abc", "€😀", "")),
    Kind("text", (*_TEXT, "x" * 5000), keys=(("", "z"), ("1.0", "1.00")), big=BIG_TEXT),
    Kind('"char"', ("a", "", "\\377")),
    Kind("name", ("abc", "Ünï\"q'", "n" * 63)),
    Kind("bytea", ("\\x", "\\x00ff27225c", "\\xdeadbeef"), keys=(("\\x", "\\x00"),), big=f"decode({BIG_TEXT}, 'hex')"),
    Kind("bit(1)", ("0", "1")),
    Kind("bit(8)", ("00000000", "00010000", "11111111"), keys=(("00000001", "10000000"),)),
    Kind("bit(70)", ("0" * 69 + "1", "1" + "0" * 69, "0" * 70)),
    Kind("uuid", ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000")),
    Kind("json", _JSON, big=BIG_JSON),
    Kind("jsonb", ('{"a": 1.10, "b": null}', "[]", '"é\\n"', "null"), big=f"({BIG_JSON})::jsonb"),
    Kind(
        "date",
        (
            "2024-02-29",
            "0001-01-01",
            "5874897-12-31",
            "1582-10-04",
            "1582-10-15",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "4713-11-24 BC",
            "1582-10-10",
        ),
        keys=(("infinity", "-infinity"), ("0044-03-15 BC", "2024-01-02"), ("1582-10-10", "0044-03-15 BC")),
    ),
    Kind("time without time zone", ("00:00:00", "24:00:00", "12:34:56.000001", "23:59:59.999999")),
    Kind("time(3) without time zone", ("12:34:56.789", "24:00:00")),
    Kind("timestamp without time zone", (*_MOMENTS, "294247-01-10 04:00:54.775806"), keys=(("infinity", "-infinity"),)),
    Kind("timestamp(3) without time zone", ("2024-02-29 12:34:56.789", "0044-03-15 12:00:00.001 BC", "infinity")),
    Kind(
        "timestamp with time zone",
        (
            *(moment if "inf" in moment else moment.replace(" BC", "+00 BC") for moment in _MOMENTS),
            "294276-12-31 23:59:59.999999",
        ),
        keys=(("infinity", "2024-01-01"),),
    ),
    Kind("timestamp(0) with time zone", ("2024-02-29 12:34:56+00", "-infinity")),
    Kind(
        "interval",
        (
            "1 year 2 mons -3 days 04:05:06.789",
            "-00:00:00.000001",
            "-178000000 years",
            "1 day -00:00:01",
            "36:00:00",
            "-1.5 seconds",
            "2147483647 days",
            "-2147483647:59:59.999999",
            "178956970 years 7 mons",
        ),
        keys=(("1 mon", "30 days"),),
    ),
    Kind("interval year to month", ("1-2", "-1-2")),
    Kind("interval second(3)", ("1.234", "-0.001")),
    Kind("inet", ("192.168.0.1", "192.168.0.1/24", "::1", "2001:db8::/32", "::ffff:1.2.3.4"), keys=(("::1", "::2"),)),
    Kind("cidr", ("192.168.0.0/24", "1.2.3.4/32", "2001:db8::/32")),
    Kind("macaddr", ("08:00:2b:01:02:03",)),
    Kind("macaddr8", ("08:00:2b:01:02:03:04:05",)),
    Kind("point", ("(1,2)", "(1.1,-0.30000000000000004)", "(NaN,Infinity)", "(1e300,-0)", "(1e-5,1e15)")),
    Kind("line", ("{1,-1,0}", "{0.1,0.2,0.3}")),
    Kind("lseg", ("[(1,2),(3,4)]", "[(0.1,0.2),(1e300,-0)]")),
    Kind("box", ("(3,4),(1,2)", "(0.3,0.4),(0.1,0.2)")),
    Kind("path", ("[(1,2),(3,4)]", "((1,2),(3,4))", "((0.1,0.2))", "((0,0),(1,1),(0,0))", "[(0,0)]")),
    Kind("circle", ("<(1,2),3>", "<(0.1,0.2),0.3>", "<(0,0),Infinity>")),
    Kind("int4range", ("[1,10)", "empty", "(,)", "(,5)", "[-2147483648,2147483647)"), keys=(("[1,5)", "[1,6)"),)),
    Kind("int8range", ("[-9223372036854775808,9223372036854775807)",)),
    Kind("numrange", ("[1.50,2.500]", "(1e100,)", "empty"), keys=(("[1.5,2]", "[1.50,2]"),)),
    Kind(
        "tsrange", ('[2024-01-01,"2024-01-02 00:00:00.000001"]', "[-infinity,infinity]", "[0044-03-15 BC,2024-01-01)")
    ),
    Kind("tstzrange", ('["2024-01-01 00:00:00+00","2024-01-02 00:00:00.000001+00"]', "(,)")),
    Kind("daterange", ("[2024-01-01,2024-01-02)", "[-infinity,infinity)", "[0044-03-15 BC,5874897-12-31)")),
    Kind("int4multirange", ("{[1,3),[5,7)}", "{}")),
    Kind("int8multirange", ("{[1,3),[5,)}",)),
    Kind(
        "nummultirange",
        ("{[1.50,3),[5,7]}",),
        big="(SELECT range_agg(numrange(i * 2, i * 2 + 1)) FROM generate_series(1, 2000) i)",
    ),
    Kind("tsmultirange", ("{[2024-01-01 00:00:00,2024-01-02 00:00:00)}",)),
    Kind("tstzmultirange", ("{[2024-01-01 00:00:00+00,2024-01-02 00:00:00+00)}",)),
    Kind("datemultirange", ("{[2024-01-01,2024-01-02)}",)),
    Kind("tsvector", ("'a':1A,2 'b' 'it''s':3", ""), big=f"to_tsvector('simple', {BIG_WORDS})"),
    Kind("tsquery", ("'a' & !'b' <-> 'c':*A", "")),
    Kind("jsonpath", ("$.a[*]?(@.b > 1)",)),
    Kind("pg_lsn", ("16/B374D848", "0/0"), keys=(("0/0", "0/1"),)),
    Kind("pg_snapshot", ("10:20:10,14,15",)),
    Kind("xid", ("4294967295",)),
    Kind("xid8", ("18446744073709551615",)),
    Kind("tid", ("(0,1)",)),
    Kind("aclitem", ("postgres=r/postgres",)),
    Kind("regclass", ("pg_class", "0")),
    Kind("regtype", ("integer", "shop.mood")),
    Kind("regproc", ("now",)),
    Kind("regprocedure", ("abs(integer)",)),
    Kind("regoper", ("|/",)),
    Kind("regoperator", ("+(integer,integer)",)),
    Kind("regrole", ("postgres",)),
    Kind("regnamespace", ("shop",)),
    Kind("regconfig", ("english",)),
    Kind("regdictionary", ("simple",)),
    Kind("regcollation", ('"C"',)),
    Kind("bit varying", ("0001", "", "1", "00000000"), "raw", big="repeat('01', 20000)::varbit"),
    Kind("bit varying(5)", ("00001", "", "01"), "raw", keys=(("01", "001"),)),
    Kind(
        "time with time zone",
        ("12:34:56.789+02", "24:00:00-15:59:59", "12:00:00.1+00:00:01", "12:00:00+00"),
        "raw",
        keys=(("12:00:00+02", "11:00:00+01"),),
    ),
    Kind("time(3) with time zone", ("12:34:56.789+02",), "raw"),
    Kind(
        "polygon", ("((0,0),(1,1),(1,0))", "((0,0),(1,1),(0,0))", "((0.1,0.2))"), "raw", big=f"{BIG_POLYGON}::polygon"
    ),
    Kind("int2vector", ("1 2 3", ""), "raw"),
    Kind("oidvector", ("1 2 4294967295", ""), "raw"),
)

USERS = (
    Kind("shop.mood", ("sad", 'it\'s "q"', "ünï 😀", "\\"), keys=(("sad", "a,b"),)),
    Kind(
        "shop.pair",
        (
            '(1,"a,b ""q"" \\\\",1.500,"2024-01-01 00:00:00+00")',
            "(,,,)",
            '(1,"",,)',
            '(1,x,1,"0044-03-15 12:00:00+00 BC")',
        ),
        keys=(("(1,a,1.5,)", "(2,a,1.5,)"),),
        big=f"ROW(1, {BIG_TEXT}, 1.5, now())::shop.pair",
    ),
    Kind(
        'shop."Pair of Pairs"',
        ('("(1,x,1.500,""2024-01-01 00:00:00+00"")","{""(1,,,)""}","{sad,NULL}","{{1},{2}}")', "(,,,)"),
    ),
    Kind("shop.price", ("1.5", "0", "NaN"), keys=(("1.5", "2"),)),
    Kind("shop.label", ("", "x\ny"), big=BIG_TEXT),
    Kind("shop.short_label", ("héé",)),
    Kind("shop.moment", ("2024-02-29 12:34:56.789012+00", "infinity", "0044-03-15 12:00:00+00 BC")),
    Kind("shop.feeling", ("sad", "a,b")),
    Kind("shop.day", ("2024-02-29", "0044-03-15 BC", "1582-10-10", "infinity", "-infinity")),
    Kind("shop.code", ("abc", "")),
    Kind("shop.bits", ("0001", ""), "raw", keys=(("0001", "001"),)),
    Kind("shop.opening", ("12:34:56.789+02",), "raw"),
    Kind("shop.flags", ("00000000001", "10000000000")),
    Kind("shop.body", ("\\x00ff", "\\x"), big=f"decode({BIG_TEXT}, 'hex')"),
    Kind("shop.document", ('{"a": 1}',), big=f"({BIG_JSON})::jsonb"),
    Kind("shop.couple", ('(1,"a,b",1.500,"2024-01-01 00:00:00+00")',)),
    Kind("shop.span", ("[1.5,2.5)", "empty", "(,)"), keys=(("[1,2)", "[1,3)"),)),
    Kind("shop.spans", ("{[1.5,2.5),[3,4)}", "{}")),
    Kind("shop.numbers", ("{1,2,NULL}", "{}"), "full", big=big_array("i")),
    Kind("shop.numbers", ("{{1,2},{3,4}}", "[0:1]={1,2}"), "raw", big=big_array("ARRAY[i, NULL]")),
    Kind("shop.moods", ("{sad,NULL}", "{}", '{{sad},{"a,b"}}'), "raw", big=big_array("'sad'::shop.mood")),
)

OF_EXTENSIONS = (
    Kind(
        "public.hstore",
        ('"a"=>"1", "b"=>NULL, "c"=>""', "", '"q\\"k"=>"v\\\\", "é"=>"😀"', '"a"=>"NULL", "n"=>"x\ny"'),
        big=f"public.hstore('a', {BIG_TEXT})",
    ),
    Kind("public.citext", ("AbC", "", "ß"), big=BIG_TEXT),
    Kind(
        "public.ltree",
        ("a.b.c", "", "Top.Science_1"),
        keys=(("a.b", "a.c"),),
        big="(SELECT string_agg('label' || i, '.') FROM generate_series(1, 600) i)::public.ltree",
    ),
    Kind("public.lquery", ("*.a.*{1,2}.b|c", "a@*")),
    Kind("public.ltxtquery", ("a & b@",)),
    Kind("public.cube", ("(1,2),(3,4)", "(0.1)", "()")),
    Kind("public.seg", ("1.0 .. 2.50", "~5.0", "<3")),
    Kind("public.isbn", ("978-0-393-04002-9",)),
    Kind("public.isbn13", ("978-0-393-04002-9",)),
    Kind("public.ean13", ("978-0-393-04002-9",)),
    Kind("public.issn", ("1436-4522",)),
    Kind("public.issn13", ("977-1436-452-00-8",)),
    Kind("public.ismn", ("M-090-30402-7",)),
    Kind("public.ismn13", ("979-0-9016791-7-7",)),
    Kind("public.upc", ("220356483481",)),
    Kind("public.lo", ("123",)),
    Kind(
        "public.vector",
        ("[1,2,3]", "[0.1,-0.2,1e-10]", "[1e-45,3.4028235e38]"),
        "full",
        big=f"{big_array('i')}::public.vector",
    ),
    Kind("public.vector(3)", ("[1,2,3.1]",), "full"),
    Kind("public.halfvec", ("[0.1,-0.2]", "[6e-08,65504]"), "full", big=f"{big_array('i')}::public.halfvec"),
    Kind(
        "public.sparsevec",
        ("{1:1.5,3:2}/5", "{}/3", "{1:0.1,1000000:1e-10}/1000000"),
        "raw",
        big=f"{BIG_SPARSE}::public.sparsevec",
    ),
)


KINDS = (*BUILT_IN, *USERS, *OF_EXTENSIONS, *STOCK_ARRAYS, *FULL_ARRAYS, *RAW_ARRAYS)
GROUPS = {
    "built_in": BUILT_IN,
    "users": USERS,
    "of_extensions": OF_EXTENSIONS,
    "arrays": (*STOCK_ARRAYS, *FULL_ARRAYS, *RAW_ARRAYS),
}
