/**
 * Civil dates without Date objects, as the clock's registers are read in places that allocate nothing.
 * Days are counted from 1970-01-01 in the proleptic Gregorian calendar.
 *
 * @module
 */

/** Seconds of a day. */
export const DAY_SECONDS = 86_400;

/** Days from 1970-01-01 to the given date; `month` is 1 to 12. */
export function daysOfDate(year: number, month: number, day: number): number {
  // Years begin in March here, so that the leap day is their last.
  const shifted = month <= 2 ? year - 1 : year;
  const era = Math.floor(shifted / 400);
  const yearOfEra = shifted - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  const dayOfEra = yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) +
    dayOfYear;
  return era * 146_097 + dayOfEra - 719_468;
}

/** The date of day `days`, packed as `year * 512 + month * 32 + day`. */
export function packedDate(days: number): number {
  const shifted = days + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) -
      Math.floor(dayOfEra / 146_096)) / 365,
  );
  const dayOfYear = dayOfEra -
    (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const shiftedMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const day = dayOfYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1;
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  return year * 512 + month * 32 + day;
}

/** Day of the week of day `days`: 1 is Sunday, as the clock counts. */
export function weekdayOf(days: number): number {
  return ((days + 4) % 7 + 7) % 7 + 1;
}
