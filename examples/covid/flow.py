"""COVID-19 cases and deaths of one country by month, from the ECDC's open data.

The case records are downloaded once a day, filtered by country, enriched, summed up by month and written as CSV, into
a folder or, when a bucket is given, to S3.
"""

import json
import urllib.request
from datetime import timedelta
from pathlib import Path

import pandas as pd

from heliograph import Flow, Parameter, case, context, task
from heliograph.engine.results import LocalResult
from heliograph.engine.signals import FAIL
from heliograph.schedules import CronSchedule
from heliograph.tasks.aws import S3Upload

ECDC = "https://opendata.ecdc.europa.eu/covid19/casedistribution/json/"


@task(
    checkpoint=True,
    result=LocalResult(),
    target="{task_name}-{today}",
    max_retries=3,
    retry_delay=timedelta(seconds=5),
)
def download_cases(url):
    """Downloads all case records; a second run of the day takes them from its target."""
    with urllib.request.urlopen(url, timeout=120) as response:
        body = response.read()
    records = json.loads(body)["records"]
    context.logger.info("Downloaded %.1f MB, %d records", len(body) / 1e6, len(records))
    return records


@task
def filter_country(records, country):
    """Keeps the records of one country, by its name or its code."""
    wanted = country.casefold()
    names = ("countriesAndTerritories", "geoId", "countryterritoryCode")
    found = [r for r in records if wanted in (str(r[name]).replace("_", " ").casefold() for name in names)]
    if not found:
        raise FAIL(f"there are no records of {country!r}")
    context.logger.info("%d of %d records are of %s", len(found), len(records), country)
    return found


@task
def enrich(records):
    """Makes a table with the month and the cases per 100,000 inhabitants of each day."""
    table = pd.DataFrame(records)
    table["year_month"] = table["year"] + "-" + table["month"]
    table["cases_per_100000"] = table["cases"] / table["popData2019"] * 100_000
    worst = table.loc[table["cases_per_100000"].idxmax()]
    context.logger.info("Worst day: %s with %.1f cases per 100,000", worst["dateRep"], worst["cases_per_100000"])
    return table


@task
def aggregate_by_month(table):
    """Sums cases and deaths up by month."""
    months = table.groupby("year_month", as_index=False)[["cases", "deaths"]].sum()
    context.logger.info("%d months, %d cases, %d deaths", len(months), months["cases"].sum(), months["deaths"].sum())
    return months


@task
def to_csv(months):
    """Writes the table as CSV text."""
    return months.sort_values("year_month").to_csv(index=False, columns=["year_month", "cases", "deaths"])


@task
def file_name(country):
    """Names the output after the country."""
    return f"covid-{country.casefold().replace(' ', '-')}.csv"


@task
def is_given(value):
    """Tells whether a parameter has a value."""
    return value is not None


@task
def save_to_folder(csv, folder, name):
    """Writes the CSV into a folder."""
    path = Path(folder).expanduser() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(csv)
    context.logger.info("Wrote %s", path)
    return str(path)


upload_to_bucket = S3Upload(name="upload_to_bucket")

with Flow("covid-cases", schedule=CronSchedule("00 13 * * *")) as flow:
    url = Parameter("url", default=ECDC)
    country = Parameter("country", default="Germany")
    folder = Parameter("folder", default="~/covid")
    bucket = Parameter("bucket", default=None)

    records = download_cases(url)
    csv = to_csv(aggregate_by_month(enrich(filter_country(records, country))))
    name = file_name(country)
    with_bucket = is_given(bucket)
    with case(with_bucket, False):
        save_to_folder(csv, folder, name)
    with case(with_bucket, True):
        upload_to_bucket(csv, key=name, bucket=bucket)


if __name__ == "__main__":
    flow.run(run_on_schedule=False)
