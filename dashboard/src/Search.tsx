interface SearchProps {
  label: string;
  value: string;
  change: (value: string) => void;
}

export function Search({ label, value, change }: SearchProps) {
  return (
    <input
      type="search"
      className="search"
      aria-label={label}
      placeholder={label}
      maxLength={200}
      value={value}
      onChange={(event) => { change(event.target.value); }}
    />
  );
}
