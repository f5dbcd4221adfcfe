"""Makes case records in the ECDC's JSON format: invented numbers, the same at every call.

210 countries and territories, 31 December 2019 to 7 September 2020, about 25 MB. Run it to write a file:
`python generate.py cases.json`.
"""

import random
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

FIRST, LAST = date(2019, 12, 31), date(2020, 9, 7)

CONTINENTS = {
    "Africa": """Algeria Angola Benin Botswana Burkina_Faso Burundi Cameroon Cape_Verde Central_African_Republic Chad
        Comoros Congo Cote_dIvoire Democratic_Republic_of_the_Congo Djibouti Egypt Equatorial_Guinea Eritrea Eswatini
        Ethiopia Gabon Gambia Ghana Guinea Guinea_Bissau Kenya Lesotho Liberia Libya Madagascar Malawi Mali Mauritania
        Mauritius Morocco Mozambique Namibia Niger Nigeria Rwanda Sao_Tome_and_Principe Senegal Seychelles Sierra_Leone
        Somalia South_Africa South_Sudan Sudan Togo Tunisia Uganda United_Republic_of_Tanzania Western_Sahara Zambia
        Zimbabwe""",
    "America": """Anguilla Antigua_and_Barbuda Argentina Aruba Bahamas Barbados Belize Bermuda Bolivia Brazil
        British_Virgin_Islands Canada Cayman_Islands Chile Colombia Costa_Rica Cuba Curacao Dominica Dominican_Republic
        Ecuador El_Salvador Falkland_Islands Greenland Grenada Guatemala Guyana Haiti Honduras Jamaica Mexico
        Montserrat Nicaragua Panama Paraguay Peru Puerto_Rico Saint_Kitts_and_Nevis Saint_Lucia
        Saint_Vincent_and_the_Grenadines Sint_Maarten Suriname Trinidad_and_Tobago Turks_and_Caicos_Islands
        United_States_of_America United_States_Virgin_Islands Uruguay Venezuela""",
    "Asia": """Afghanistan Bahrain Bangladesh Bhutan Brunei_Darussalam Cambodia China India Indonesia Iran Iraq Israel
        Japan Jordan Kazakhstan Kuwait Kyrgyzstan Laos Lebanon Malaysia Maldives Mongolia Myanmar Nepal Oman Pakistan
        Palestine Philippines Qatar Saudi_Arabia Singapore South_Korea Sri_Lanka Syria Taiwan Tajikistan Thailand
        Timor_Leste Turkey United_Arab_Emirates Uzbekistan Vietnam Yemen""",
    "Europe": """Albania Andorra Armenia Austria Azerbaijan Belarus Belgium Bosnia_and_Herzegovina Bulgaria Croatia
        Cyprus Czechia Denmark Estonia Faroe_Islands Finland France Georgia Germany Gibraltar Greece Guernsey Holy_See
        Hungary Iceland Ireland Isle_of_Man Italy Jersey Kosovo Latvia Liechtenstein Lithuania Luxembourg Malta Moldova
        Monaco Montenegro Netherlands North_Macedonia Norway Poland Portugal Romania Russia San_Marino Serbia Slovakia
        Slovenia Spain Sweden Switzerland Ukraine United_Kingdom""",
    "Oceania": """Australia Fiji French_Polynesia Guam New_Caledonia New_Zealand Northern_Mariana_Islands
        Papua_New_Guinea Solomon_Islands Vanuatu""",
}

RECORD = """      {{
         "dateRep" : "{day:%d/%m/%Y}",
         "day" : "{day:%d}",
         "month" : "{day:%m}",
         "year" : "{day:%Y}",
         "cases" : {cases},
         "deaths" : {deaths},
         "countriesAndTerritories" : "{country}",
         "geoId" : "{code}",
         "countryterritoryCode" : "{long_code}",
         "popData2019" : {population},
         "continentExp" : "{continent}",
         "Cumulative_number_for_14_days_of_COVID-19_cases_per_100000" : "{cumulative}"
      }}"""


def countries() -> list[tuple[str, str, str, str]]:
    """Returns name, two-letter and three-letter code (both invented, unique) and continent of each country."""
    names = sorted((name, continent) for continent, words in CONTINENTS.items() for name in words.split())
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    codes = (f"{name[0]}{letters[number % 26]}{letters[number // 26]}" for number, (name, _) in enumerate(names))
    return [
        (name, f"{code[2]}{code[1]}", code, continent) for (name, continent), code in zip(names, codes, strict=True)
    ]


def country_records(name: str, code: str, long_code: str, continent: str) -> Iterator[str]:
    """Yields the records of one country as JSON text, newest first, as the ECDC orders them."""
    chance = random.Random(name)
    population = int(10 ** chance.uniform(5.8, 8.3))
    waves = [
        (chance.uniform(60, 230), chance.uniform(10, 35), chance.uniform(20, 300) * population / 1e6) for _ in "12"
    ]
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    cases, deaths = [], []
    for number in range(len(days)):
        level = sum(peak * 2.718 ** (-(((number - middle) / length) ** 2)) for middle, length, peak in waves)
        cases.append(int(level * chance.uniform(0.6, 1.4)))
        deaths.append(int(cases[-1] * chance.uniform(0.0, 0.06)))
    for number in reversed(range(len(days))):
        fortnight = sum(cases[number - 13 : number + 1]) / population * 100_000 if number >= 13 else None
        yield RECORD.format(
            day=days[number],
            cases=cases[number],
            deaths=deaths[number],
            country=name,
            code=code,
            long_code=long_code,
            population=population,
            continent=continent,
            cumulative="" if fortnight is None else f"{fortnight:.8f}",
        )


def case_records() -> bytes:
    """Returns the whole document."""
    rows = (record for country in countries() for record in country_records(*country))
    return ('{\n   "records" : [\n' + ",\n".join(rows) + "\n   ]\n}\n").encode("ascii")


if __name__ == "__main__":
    data = case_records()
    Path(sys.argv[1]).write_bytes(data)
    print(f"{len(data) / 1e6:.1f} MB, {len(countries())} countries")
